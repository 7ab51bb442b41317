package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"migrationsensor/proxyd"
)

// machine is a directory with a configuration of each node; do runs proxyd there.
type machine struct {
	t   *testing.T
	dir string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t, t.TempDir()}
	m.write("sign.toml", fmt.Sprintf(`state = %q
socket = %q
fleet = "test"
[[service]]
name = "web"
public = ["198.18.0.1:443"]
origin = "10.0.0.80:443"
[[node]]
name = "sign"
kind = "signer"
backplane = %q
[[node]]
name = "p1"
kind = "entry"
public = ["198.18.0.1"]
backplane = "127.0.0.1:7444"
`, m.path("sign"), m.path("sign.sock"), freeAddr(t)))
	m.write("p1.toml", fmt.Sprintf("state = %q\nsocket = %q\n", m.path("p1"), m.path("p1.sock")))
	return m
}

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) write(name, text string) {
	if err := os.WriteFile(m.path(name), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) do(stdin string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "@", m.dir+"/")
	}
	err := run(m.t.Context(), args, strings.NewReader(stdin), &stdout, &stderr)
	return stdout.String() + stderr.String(), err
}

func (m *machine) must(want string, args ...string) string {
	m.t.Helper()
	out, err := m.do("", args...)
	if err != nil || !strings.Contains(out, want) {
		m.t.Errorf("proxyd %s: %v\n%s\nwant %q", strings.Join(args, " "), err, out, want)
	}
	return out
}

func (m *machine) refused(want string, args ...string) {
	m.t.Helper()
	if out, err := m.do("", args...); err == nil || !strings.Contains(err.Error(), want) {
		m.t.Errorf("proxyd %s: got %v\n%s\nwant %q", strings.Join(args, " "), err, out, want)
	}
}

func TestAFleetFromTheCommandLine(t *testing.T) {
	m := newMachine(t)
	m.refused("run proxyd init", "run", "-c", "@sign.toml")
	m.refused("run proxyd init", "check", "-c", "@sign.toml")
	m.refused("run proxyd init", "firewall", "plan", "-c", "@sign.toml")
	m.refused("after proxyd init", "token", "create", "-c", "@sign.toml", "--role", "agent")
	m.refused("correct one of them", "init", "-c", "@sign.toml", "--fleet", "other")
	m.must(`fleet "test": this machine is its signing node, "sign"`, "init", "-c", "@sign.toml")
	m.refused("there is a fleet in this state directory already", "init", "-c", "@sign.toml")
	m.must("one entry only", "check", "-c", "@sign.toml")
	m.must(`no node of kind "anchor": sessions are held by edges`, "check", "-c", "@sign.toml")

	m.refused("proxyd join --as NAME FILE", "run", "-c", "@p1.toml")
	m.refused("proxyd join --as NAME FILE", "firewall", "plan", "-c", "@p1.toml")
	m.refused("proxyd is not running", "status", "-c", "@sign.toml")
	m.refused("proxyd is not running", "down", "-c", "@sign.toml")

	ended := make(chan error, 1)
	go func() { _, err := m.do("", "run", "--config", m.path("sign.toml")); ended <- err }()
	m.waitRunning(ended)
	m.refused("another proxyd runs", "run", "-c", "@sign.toml")
	m.must("sign (signer, ", "status", "-c", "@sign.toml")
	m.must("no agent is connected", "agents", "-c", "@sign.toml")
	m.refused("no agent is connected to this node, which is no edge", "drain", "-c", "@sign.toml")
	m.refused("no agent is connected to this node, which is no edge", "drain", "--undo", "-c", "@sign.toml")
	m.must(`"kind": "signer"`, "status", "--json", "-c", "@sign.toml")

	m.must("for role edge in ", "token", "create", "-c", "@sign.toml", "--role", "edge", "--node", "p1", "--out", "@p1.token")
	if fi, err := os.Stat(m.path("p1.token")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v", fi, err)
	}
	m.refused("exists; remove it", "token", "create", "-c", "@sign.toml", "--role", "edge", "--out", "@p1.token")
	m.refused("this machine is its signing node", "join", "-c", "@sign.toml", "--as", "p1", "@p1.token")
	m.refused(`this token is for node "p1", not for "p2"`, "join", "-c", "@p1.toml", "--as", "p2", "@p1.token")
	m.must(`joined fleet "test" as "p1" (entry, `, "join", "-c", "@p1.toml", "--as", "p1", "@p1.token")
	m.refused("has been used", "join", "-c", "@p1.toml", "--as", "p1", "@p1.token")

	token := m.must("ms://join/", "token", "create", "-c", "@sign.toml", "--role", "edge", "--open")
	if out, err := m.do(token, "join", "-c", "@p1.toml", "--as", "p1", "-"); err != nil {
		t.Errorf("join from standard input: %v\n%s", err, out)
	}
	m.must("", "down", "-c", "@sign.toml")
	if err := <-ended; err != nil {
		t.Errorf("run, after proxyd down: %v", err)
	}
	m.refused("this machine is node", "check", "-c", m.signingP1())
}

// signingP1 writes a configuration that declares a fleet on p1's state.
func (m *machine) signingP1() string {
	b, err := os.ReadFile(m.path("sign.toml"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.write("both.toml", strings.Replace(string(b), m.path("sign")+`"`, m.path("p1")+`"`, 1))
	return m.path("both.toml")
}

func (m *machine) waitRunning(ended <-chan error) {
	m.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if _, err := proxyd.ControlStatus(m.t.Context(), m.path("sign.sock")); err == nil {
			return
		}
		select {
		case err := <-ended:
			m.t.Fatalf("run ended: %v", err)
		case <-tick.C:
		}
	}
	m.t.Fatal("run does not open its control socket")
}

// TestRunJoinsFirst: a node that starts with its token, and before the signing node, joins once. What keeps it from running afterwards
// is that no interface has its address, or a right that is missing.
func TestRunJoinsFirst(t *testing.T) {
	m := newMachine(t)
	m.must("its signing node", "init", "-c", "@sign.toml")
	m.must("for role edge in ", "token", "create", "-c", "@sign.toml", "--role", "edge", "--node", "p1", "--out", "@p1.token")
	m.refused("give both, or none", "run", "-c", "@p1.toml", "--as", "p1")
	m.refused("give both, or none", "run", "-c", "@p1.toml", "--token", "@p1.token")
	m.refused("--join-wait -1s", "run", "-c", "@p1.toml", "--as", "p1", "--token", "@p1.token", "--join-wait=-1s")
	m.refused("the signing node cannot be reached", "run", "-c", "@p1.toml", "--as", "p1", "--token", "@p1.token", "--join-wait", "0s")
	m.refused(`this token is for node "p1", not for "p2"`, "run", "-c", "@p1.toml", "--as", "p2", "--token", "@p1.token")

	type result struct {
		out string
		err error
	}
	node, signer := make(chan result, 1), make(chan error, 1)
	go func() {
		out, err := m.do("", "run", "-c", m.path("p1.toml"), "--as", "p1", "--token", m.path("p1.token"))
		node <- result{out, err}
	}()
	go func() { _, err := m.do("", "run", "--config", m.path("sign.toml")); signer <- err }()
	m.waitRunning(signer)
	unable := func(r result) {
		t.Helper()
		if r.err == nil || !strings.Contains(r.err.Error(), "no interface has the address 198.18.0.1") && !strings.Contains(r.err.Error(), "an edge needs CAP_") {
			t.Errorf("run ended with %v, want the reason why it can't run\n%s", r.err, r.out)
		}
	}
	first := <-node
	unable(first)
	if n := strings.Count(first.out, `"joined"`); n != 1 {
		t.Errorf("it joined %d times, want once:\n%s", n, first.out)
	}
	m.refused(`this machine has joined as "p1"`, "run", "-c", "@p1.toml", "--as", "p2", "--token", "@p1.token")
	out, err := m.do("", "run", "-c", m.path("p1.toml"), "--as", "p1", "--token", m.path("p1.token"))
	unable(result{out, err})
	if strings.Contains(out, `"joined"`) {
		t.Errorf("it joined again:\n%s", out)
	}
	m.must("", "down", "-c", "@sign.toml")
	if err := <-signer; err != nil {
		t.Error(err)
	}
}

func TestCommandLineMistakes(t *testing.T) {
	m := newMachine(t)
	m.write("bad.toml", "fleet = \"x\"\nsevice = 3\n")
	m.refused("bad.toml:2:1: sevice: there is no such key: did you mean service?", "check", "-c", "@bad.toml")
	m.refused("no such file", "run", "-c", "@missing.toml")
	m.refused("see proxyd --help", "dance")
	m.refused("--role", "token", "create", "-c", "@sign.toml")
	m.refused("write 1 or more, or --open", "token", "create", "-c", "@sign.toml", "--role", "agent", "--uses", "0")
	m.refused("leave out --uses 5", "token", "create", "-c", "@sign.toml", "--role", "agent", "--uses", "5", "--open")
	m.write("short.token", "ms://join/AQ")
	m.refused("truncated", "join", "-c", "@p1.toml", "--as", "p1", "@short.token")
	m.write("no.token", "hello")
	m.refused("this is not a join token", "join", "-c", "@p1.toml", "--as", "p1", "@no.token")
	m.must("proxyd init", "--help")
	m.must("proxyd token create --role edge", "token", "create", "--help")
	m.must("proxyd init", []string{}...)
	m.must("go1", "--version")
}

// TestStarter: what init prints to start from must be a configuration without a mistake.
func TestStarter(t *testing.T) {
	m := newMachine(t)
	var out, hint bytes.Buffer
	if err := run(t.Context(), []string{"init", "--fleet", "demo", "-c", m.path("new.toml")}, nil, &out, &hint); err != nil {
		t.Fatal(err)
	}
	cfg, err := proxyd.ParseConfig("starter", out.Bytes())
	if err != nil || cfg.Fleet != "demo" || len(cfg.Nodes) != 3 {
		t.Errorf("got %+v, %v", cfg, err)
	}
	if !strings.Contains(hint.String(), "no fleet was made") {
		t.Errorf("hint %q", hint.String())
	}
}

func TestPrintStatus(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	st := proxyd.Status{
		Node: "p1", ID: "0011223344556677", Kind: "entry", State: proxyd.Defending, Since: now.Add(-5 * time.Second), Why: "syn 9000/s over 2000/s",
		Frontends: []string{"p2"}, Rates: map[string]float64{"all": 9100, "syn": 9000}, Thresholds: map[string]float64{"syn": 2000},
		Path: "xdp-generic", PathWhy: []string{"xdp-native: the driver takes no packet programs"},
		Strangers: []proxyd.StrangerStatus{
			{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Count: 12, Last: now.Add(-3 * time.Second), Why: map[string]uint64{"bad_tag": 2, "mute": 10}},
			{Prefix: netip.MustParsePrefix("2001:db8::/48"), Count: 1, Why: map[string]uint64{"bad_tag": 1}},
		},
		Sampling: &proxyd.Sampling{Mode: "budget", Fresh: 0.125, Again: 1, Intake: 0.5, Answers: 100_000},
		Counts:   map[string]uint64{"transfers": 4}, Agents: 3, Leaving: &proxyd.Leaving{Agents: 3, Waiting: 1, Links: 6, Plain: 2}, Streams: 9, Disclosed: map[string]int{"p2": 3},
		Peers: []proxyd.PeerStatus{{Name: "p2", Up: true, State: "active"}, {Name: "p3"}}, Version: "v1",
	}
	var b strings.Builder
	if err := printStatus(&b, st, now); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"p1 (entry, 0011223344556677) is defending since ", "(5s): syn 9000/s over 2000/s\n",
		"frontend   p2\n", "3 agents, 9 streams", "syn        9000  threshold 2000  EXCEEDED\n", "all        9100  no threshold\n",
		"left       3 agents (1 have not answered), 6 links, 2 plain connections\n",
		"data path  xdp-generic\n", "           not xdp-native: the driver takes no packet programs\n",
		"strangers  198.51.100.0/24 12 (bad_tag 2, mute 10), last 3s ago\n", "           2001:db8::/48 1 (bad_tag 1)\n",
		"told       p2 to 3 agents\n", "answers    by budget: 12.5 % of fresh SYNs, 100.0 % of retransmitted ones, at most 100000/s; 50.0 % looked at", "peers      p2 up, active\n", "p3 down\n", "transfers 4",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}

func TestLoggerIsJSONWithoutATerminal(t *testing.T) {
	var b bytes.Buffer
	logger(&b, 0).InfoContext(context.Background(), "hello", "k", 1)
	if !strings.HasPrefix(b.String(), `{"time":`) {
		t.Errorf("got %s", b.String())
	}
}

func TestAnchorWarnings(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.3:7444": "", "[fd00::3]:7444": "", "100.64.0.3:7444": "",
		"203.0.113.3:7444": `the anchor "a1" has the public address 203.0.113.3`,
	} {
		cfg := proxyd.Config{Fleet: "test", Nodes: []proxyd.NodeConfig{
			{Name: "p1", Kind: "entry"}, {Name: "p2", Kind: "entry"}, {Name: "a1", Kind: "anchor", Backplane: netip.MustParseAddrPort(addr)},
		}}
		if got := strings.Join(warnings(cfg), "\n"); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", addr, got, want)
		}
	}
}
