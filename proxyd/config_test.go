package proxyd

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

const goodConfig = `
state = "/tmp/x"
fleet = "example"
log_level = "debug"
[[service]]
name = "web"
public = ["198.18.0.10:443", "[2001:2::10]:443"]
origin = "10.0.0.80:443"
groups = ["staff"]
[[node]]
name = "sign"
kind = "signer"
backplane = "10.0.0.9:7444"
[[node]]
name = "p1"
kind = "entry"
public = ["198.18.0.10", "2001:2::10"]
backplane = "10.0.0.1:7444"
neighbours = ["p2"]
[[node]]
name = "p2"
kind = "hidden"
public = ["198.18.0.20"]
link_port = 7000
backplane = "10.0.0.2:7444"
`

// goodAnchor goes behind goodConfig.
const goodAnchor = `[[node]]
name = "a1"
kind = "anchor"
backplane = "10.0.0.3:7444"
`

func TestConfig(t *testing.T) {
	cfg, err := ParseConfig("f", []byte(goodConfig+"[detector]\ninterval='2s'\nthreshold = {syn = 5}\n[firewall]\nallow=['198.18.0.0/24']\n[admission]\nrate=0\nburst=0"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Nodes[1].LinkPort != 7443 || cfg.Nodes[2].LinkPort != 7000 || cfg.Nodes[0].LinkPort != 0 {
		t.Errorf("link ports %+v", cfg.Nodes)
	}
	if th := cfg.Detector.Threshold; th.SYN != 5 || th.ICMP != 1000 || cfg.Detector.Interval.Duration != 2*time.Second {
		t.Errorf("a key that is not written has its default: %+v", cfg.Detector)
	}
	if cfg.Admission != (AdmissionConfig{}) || cfg.StopWait.Duration != 5*time.Second {
		t.Errorf("without a limit of links: %+v; a stop waits %v by default", cfg.Admission, cfg.StopWait)
	}
	if p := cfg.Nodes[2].RelayPorts; !slices.Equal(p, []uint16{7445, 7446, 7447, 7448}) || cfg.Nodes[0].RelayPorts != nil {
		t.Errorf("relay ports of an edge %v, of the signing node %v", p, cfg.Nodes[0].RelayPorts)
	}
	if cfg.Services[0].Plain != "cookie" || !cfg.Signing() || cfg.Firewall.Allow[0].Bits() != 24 {
		t.Errorf("got %+v", cfg)
	}
}

func TestConfigMistakes(t *testing.T) {
	in := func(old, new string) string { return strings.Replace(goodConfig, old, new, 1) }
	tests := []struct{ name, text, want string }{
		{"unknown key", "sate = \"/x\"", "f:1:1: sate: there is no such key: did you mean state?"},
		{"unknown key in a table", "[attack]\n  loud = 1", "f:2:3: attack.loud: there is no such key: attack takes quiet, suspend_after"},
		{"unknown table", "[dragons]", "f:1:2: dragons: there is no such key: remove it"},
		{"single for double brackets", "[node]\nname = \"a\"", "f:1:2: node: is a table: write [[node]]"},
		{"number for text", "[attack]\nquiet = 30", "f:2:1: attack.quiet: is a number: write a duration"},
		{"text for number", "[syn_checker]\nprobability = \"1\"", "f:2:1: syn_checker.probability: is text in quotes: write a share"},
		{"bad TOML", "state = ", "f:1:8: expected value"},
		{"bad address", in(`public = ["198.18.0.20"]`, `public = ["198.18.0.256"]`), `f:23:11: node.public: ParseAddr("198.18.0.256"): IPv4 field has value >255: write a list of addresses`},
		{"number in a list", in(`["p2"]`, `["p2", 3]`), "f:19:1: node.neighbours: item 2 is a number: write a list of node names"},
		{"port too large", in("7000", "70000"), "f:24:13: node.link_port: integer value 70000 cannot be stored in uint16: write a port"},
		{"bad duration", "[attack]\nquiet = \"5\"", "f:2:9: attack.quiet: time: missing unit in duration \"5\": write a duration"},
		{"key twice", "fleet = 'a'\nfleet = 'b'", "f:2:1: fleet: key fleet is already defined"},
		{"bad level", "log_level = 'loud'", "f:1:13: log_level: slog: level string \"loud\": unknown name: write \"debug\""},
		{"relative state", "state = 'x'", `f:1:1: state: "x" is not an absolute path: write a directory`},
		{"share above 1", "[syn_checker]\nprobability = 1.5", "f:2:1: syn_checker.probability: 1.5 is not above 0 and up to 1: write a share"},
		{"not a number", "[syn_checker]\nprobability = nan", "f:2:1: syn_checker.probability: NaN is not above 0"},
		{"a share of nothing", "[syn_checker]\nprobability = 0", "f:2:1: syn_checker.probability: 0 is not above 0 and up to 1: write a share, such as 0.25, or leave it out"},
		{"no answers", "[syn_checker]\nanswers = 0", "f:2:1: syn_checker.answers: 0 is not between 1 and"},
		{"two cores", "[syn_checker]\nprocessor = 2", "f:2:1: syn_checker.processor: 2 is not above 0 and up to 1: write a share of one core"},
		{"a stop that waits for hours", "stop_wait = '2h'", "f:1:1: stop_wait: 2h0m0s is not between 0s and 1m: write a duration"},
		{"negative admission", "[admission]\nrate = -1", "f:2:1: admission.rate: -1 is not between 0 and 1000000: write new links per second"},
		{"rate that lets nobody in", "[admission]\nburst = 0", "f:2:1: admission.burst: 0 is not between 1 and 1000000: write a number of links"},
		{"part of a link", "[admission]\nrate = 0.5", "f:2:1: admission.rate: is a"},
		{"negative threshold", "[detector.threshold]\nsyn = -1", "f:2:1: detector.threshold.syn: -1 is not a rate"},
		{"no fleet", in(`fleet = "example"`, ""), "f:1:1: fleet: services and nodes are declared, but no fleet: this is the signing node: add fleet"},
		{"bad fleet name", in(`"example"`, `"a/b"`), `f:3:1: fleet: "a/b" is not a name`},
		{"no signer", in(`"signer"`, `"anchor"`), `node: 0 nodes of kind "signer": declare exactly one`},
		{"node twice", in(`name = "p2"`, `name = "p1"`), `f:21:1: node[2].name: "p1" is also the name of node[1]`},
		{"service twice", goodConfig + "[[service]]\nname='web'\npublic=['198.18.0.10:80']\norigin='a:1'", `f:27:1: service[1].name: "web" is also the name of service[0]`},
		{"unknown neighbour", in(`["p2"]`, `["p9"]`), `f:19:15: node[1].neighbours[0]: there is no node "p9": declare it`},
		{"neighbour of itself", in(`["p2"]`, `["p1"]`), `a node is no neighbour of its own`},
		{"signer as neighbour", in(`["p2"]`, `["sign"]`), `"sign" is of kind "signer": neighbours are edges`},
		{"link port is a service port", in(`198.18.0.10:443`, `198.18.0.10:7443`), `f:7:11: service[0].public[0]: port 7443 is the link port of node "p1": use another port here`},
		{"hidden edge as public address", in(`198.18.0.10:443`, `198.18.0.20:443`), `198.18.0.20 is hidden edge "p2"; clients would learn its address: use the address of an entry`},
		{"nobody's address", in(`198.18.0.10:443`, `198.18.0.77:443`), `no node has the address 198.18.0.77`},
		{"same public twice", in(`"[2001:2::10]:443"`, `"198.18.0.10:443"`), `198.18.0.10:443 also belongs to service "web"`},
		{"origin without port", in(`10.0.0.80:443`, `10.0.0.80`), `f:8:1: service[0].origin: "10.0.0.80" is not host:port`},
		{"too many to allow", "[firewall]\nallow = [" + strings.Repeat("'198.18.0.0/24',", 3073) + "]", "f:2:1: firewall.allow: 3073 prefixes are more than 3072: write fewer and larger ones"},
		{"bad plain", in(`groups`, "plain='reject'\ngroups"), `f:9:1: service[0].plain: "reject" is none of them: write "cookie", "drop" or "admit"`},
		{"no backplane", in(`backplane = "10.0.0.1:7444"`, ``), `node[1].backplane: missing`},
		{"backplane twice", in(`10.0.0.2:7444`, `10.0.0.1:7444`), `10.0.0.1:7444 is also an address of node[1]`},
		{"two IPv4 addresses", in(`"2001:2::10"]`, `"198.18.0.11"]`), `node[1].public: more than one IPv4 or IPv6 address`},
		{"edge without address", in(`public = ["198.18.0.20"]`, ``), `node[2].public: an edge without a public address`},
		{"unspecified address", in(`"198.18.0.20"`, `"0.0.0.0"`), `0.0.0.0 cannot be a public address`},
		{"unknown anchor", in(`groups`, "anchors=['a9']\ngroups"), `f:9:10: service[0].anchors[0]: there is no node "a9": declare it`},
		{"signer as anchor", in(`groups`, "anchors=['sign']\ngroups"), `"sign" is of kind "signer": anchors are nodes of kind anchor, or edges`},
		{"anchor twice", in(`groups`, "anchors=['p2', 'p2']\ngroups"), `f:9:16: service[0].anchors[1]: "p2" twice`},
		{"relay port is the backplane's", goodConfig + goodAnchor + "relay_ports = [7444]", `f:30:1: node[3].relay_ports: 10.0.0.3:7444 is also the backplane port of node "a1": use another port`},
		{"relay port is a link port", in(`"10.0.0.2:7444"`, "'198.18.0.20:6997'"), `198.18.0.20:7000 is also the link port of node "p2"`},
		{"relay port is a service's", in(`"10.0.0.1:7444"`, `"198.18.0.10:441"`), `198.18.0.10:443 is also an address of service "web"`},
		{"relay port twice", goodConfig + goodAnchor + "relay_ports = [7, 7]", `10.0.0.3:7 is also a relay port of node "a1"`},
		{"relay port 0", goodConfig + goodAnchor + "relay_ports = [0]", `0 is no port: write a list of ports`},
		{"text for a relay port", goodConfig + goodAnchor + "relay_ports = ['7']", `node.relay_ports: item 1 is text in quotes: write a list of ports`},
		{"no room for relay ports", in(`10.0.0.2:7444`, `10.0.0.2:65533`), `node[2].relay_ports: missing, and there are not four ports after the backplane's: write a list`},
		{"relay ports of a signer", in(`kind = "signer"`, "kind = 'signer'\nrelay_ports=[1]"), `no data link ends at a node of kind "signer": remove it`},
		{"bad kind", in(`"hidden"`, `"secret"`), `f:22:1: node[2].kind: "secret" is no kind of node: write "entry"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseConfig("f", []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if _, ok := errors.AsType[ConfigError](err); err != nil && !ok {
				t.Errorf("%T is not a ConfigError", err)
			}
		})
	}
}

func TestConfigReportsEveryMistakeAtOnce(t *testing.T) {
	_, err := ParseConfig("f", []byte("a = 1\nb = 2"))
	if e, _ := errors.AsType[ConfigError](err); len(e) != 2 {
		t.Errorf("got %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	f.Add([]byte("[[node]]\n[node.x]\ny.z={a=[1,{b=2}]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseConfig("f", b); err != nil && err.Error() == "" {
			t.Error("an error without a sentence")
		}
	})
}
