package agent

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestConfigErrorsNameThePlaceAndTheFix(t *testing.T) {
	for _, tt := range []struct{ rule, in, want string }{
		{"unknown key", "state = \"/s\"\nprobee = \"warm\"\n", `a.toml:2:1: probee: is no setting of ms-agent (did you mean probe?)`},
		{"unknown key far from any", "xyzzy = 1\n", `a.toml:1:1: xyzzy: is no setting of ms-agent (known here: accept, device,`},
		{"unknown key in a table", "[move]\n  dwel = \"1s\"\n", `a.toml:2:3: move.dwel: is no setting of ms-agent (did you mean dwell?)`},
		{"syntax", "probe = \n", "a.toml:1:"},
		{"type", "probe_retries = \"two\"\n", "a.toml:1:17: probe_retries: "},
		{"value", "# first\n  probe = \"hot\"\n", `a.toml:2:3: probe: "hot" is not known (write one of ["warm" "each"])`},
		{"range", "probe_retries = 11\n", `a.toml:1:1: probe_retries: 11 is out of range (write a number from 0 to 10)`},
		{"duration", "probe_wait = \"3\"\n", `a.toml:1:1: probe_wait: "3" is no duration (write a number with a unit`},
		{"duration range", "probe_wait = \"1ns\"\n", `a.toml:1:1: probe_wait: 1ns is out of range`},
		{"relative path", "state = \"var\"\n", `a.toml:1:1: state: "var" is not an absolute path`},
		{"device", "device = \"a name too long for linux\"\n", `a.toml:1:1: device: `},
		{"prefix", "accept = [\"192.0.2.0/24\", \"nonsense\"]\n", `a.toml:1:1: accept: "nonsense" is no address or prefix`},
		{"service without a name", "\n[[service]]\nfallback = \"none\"\n", `a.toml:2:3: service.0: has no name`},
		{"service twice", "[[service]]\nname = \"web\"\n[[service]]\nname = \"web\"\n", `a.toml:4:1: service.1.name: service "web" appears twice`},
		{"service's fallback", "[[service]]\nname = \"web\"\nfallback = \"maybe\"\n", `a.toml:3:1: service.0.fallback: "maybe" is not known`},
		{"two at once", "mtu = 1\nprobe = \"\"\n", "probe: \"\" is not known"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			_, err := parseConfig("a.toml", []byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestConfigValues(t *testing.T) {
	cfg, err := parseConfig("a.toml", []byte(`
state = "/s"
socket = "/s/sock"
device = "tun7"
mtu = 9000
no_tun = true
probe = "each"
probe_wait = "250ms"
probe_retries = 0
accept = ["192.0.2.7", "2001:db8::1/64"]
fallback = "direct"
log_level = "debug"
log_format = "json"
[move]
dwell = "0s"
max = 0
[[service]]
name = "web"
fallback = "none"
[[service]]
name = "db"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		State: "/s", Socket: "/s/sock", Device: "tun7", MTU: 9000, NoTUN: true,
		Probe: ProbeEach, ProbeWait: 250 * time.Millisecond, Fallback: FallbackDirect,
		Accept:   []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/64")},
		Services: []ServiceConfig{{"web", FallbackNone}, {"db", FallbackDirect}},
		LogLevel: "debug", LogFormat: "json",
	}
	if diff := cmp.Diff(want, cfg, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("want − got +\n%s", diff)
	}
	if got := cfg.fallback("web"); got != FallbackNone {
		t.Errorf("fallback of web: got %q, the service's own setting counts", got)
	}
	if got := cfg.fallback("other"); got != FallbackDirect {
		t.Errorf("fallback of a service without a table: got %q, the global setting counts", got)
	}
}

func TestMissingConfigFile(t *testing.T) {
	if _, err := LoadConfig(filepath.Join(t.TempDir(), "none.toml")); err == nil {
		t.Error("a file that was named and does not exist is an error")
	}
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults are valid: %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("probe = \"each\"\n[[service]]\nname=\"a\"\n"))
	f.Add([]byte("a.b.c = {d = [1, {e = 2}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := parseConfig("fuzz.toml", data)
		if err == nil && cfg.Validate() != nil {
			t.Errorf("a file that loads is valid: %v", cfg.Validate())
		}
	})
}
