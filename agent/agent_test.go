package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrationsensor/agent/connhandler"
	"migrationsensor/proto"
)

const testWait = 20 * time.Second

// running is an agent under test.
type running struct {
	*Agent
	t     *testing.T
	ended chan error
	stop  context.CancelFunc
}

func testConfig(t *testing.T) Config {
	cfg := DefaultConfig()
	cfg.State, cfg.Socket, cfg.NoTUN, cfg.Dwell = filepath.Join(t.TempDir(), "state"), "", true, 0
	return cfg
}

func start(t *testing.T, cfg Config, sys System) *running {
	t.Helper()
	return startEdited(t, cfg, sys, func(*Agent) {})
}

// startEdited is start with an agent whose times are not the protocol's.
func startEdited(t *testing.T, cfg Config, sys System, edit func(*Agent)) *running {
	t.Helper()
	if sys.Own == nil {
		sys.Own = func() []netip.Addr { return nil }
	}
	a, err := New(cfg, sys)
	if err != nil {
		t.Fatal(err)
	}
	edit(a)
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Agent: a, t: t, ended: make(chan error, 1), stop: cancel}
	go func() { r.ended <- a.Run(ctx) }()
	t.Cleanup(r.down)
	select {
	case <-a.Ready():
	case err := <-r.ended:
		r.ended <- err
		t.Fatalf("agent ended: %v", err)
	case <-time.After(testWait):
		t.Fatal("agent is not ready")
	}
	return r
}

func (r *running) down() {
	r.stop()
	select {
	case err := <-r.ended:
		r.ended <- err
		if err != nil {
			r.t.Errorf("Run ended with %v, want nil for a stop that was asked for", err)
		}
	case <-time.After(testWait):
		r.t.Fatal("Run did not end")
	}
}

// eventually waits for a condition on real sockets.
func (r *running) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(testWait); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not so: %s\n%+v", what, r.Status())
		}
	}
}

func (r *running) at(e *testEdge) func() bool {
	return func() bool {
		s := r.Status()
		return s.Edge != nil && s.Edge.Node == e.id.String() && s.State == stateConnected
	}
}

func at(service string) string {
	return netip.AddrPortFrom(protected.Addr(), protected.Port()+services[service]).String()
}

func (r *running) dial(service string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	return r.DialContext(ctx, "tcp", at(service))
}

// echo sends and receives on c.
func echo(t *testing.T, c net.Conn, what string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(testWait))
	out := bytes.Repeat([]byte(what), 10000)
	go c.Write(out)
	in := make([]byte, len(out))
	if _, err := io.ReadFull(c, in); err != nil || !bytes.Equal(in, out) {
		t.Errorf("echo %s: %v, equal %v", what, err, bytes.Equal(in, out))
	}
}

func (r *running) mustDial() net.Conn {
	r.t.Helper()
	c, err := r.dial("echo")
	if err != nil {
		r.t.Fatalf("dial: %v\n%+v", err, r.Status())
	}
	return c
}

func joined2(t *testing.T, f *testFleet, probe string) *running {
	cfg := testConfig(t)
	cfg.Token, cfg.Probe = f.token().String(), probe
	return start(t, cfg, System{})
}

func TestJoinOpenAndStartAgainWithoutToken(t *testing.T) {
	f := newFleet(t, "fleet")
	e := f.edge(false)
	cfg := testConfig(t)
	cfg.Token = f.token().String()
	r := start(t, cfg, System{})
	c := r.mustDial()
	echo(t, c, "hello")
	if err := c.(connhandler.Conn).CloseWrite(); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
		t.Errorf("after half-close: %d bytes, %v; want a clean end from the other side", len(b), err)
	}
	c.Close()
	s := r.Status()
	if s.State != stateConnected || s.Edge == nil || s.Edge.Name != "entry" || s.Fleet != "fleet" || s.Counts.Opened != 1 || len(s.Protected) != len(services) {
		t.Errorf("status %+v", s)
	}
	for path, want := range map[string]os.FileMode{"": 0o700, keyFile: 0o600, stateFile: 0o600} {
		fi, err := os.Stat(filepath.Join(cfg.State, path))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %v: nobody else may read it", path, fi.Mode(), err, want)
		}
	}
	r.down()

	for rule, token := range map[string]string{"no token": "", "the same token again": cfg.Token} {
		cfg.Token = token
		r2 := start(t, cfg, System{})
		r2.eventually(rule+": the enrolment is kept", r2.at(e))
		if got := r2.Status().AgentID; got != s.AgentID {
			t.Errorf("%s: agent %s became %s", rule, s.AgentID, got)
		}
		r2.down()
	}
}

func TestConnectErrorsAreTheOrigins(t *testing.T) {
	f := newFleet(t, "fleet")
	f.edge(false)
	for _, probe := range []string{ProbeWarm, ProbeEach} {
		r := joined2(t, f, probe)
		for service, want := range map[string]error{"refused": syscall.ECONNREFUSED, "nowhere": syscall.EHOSTUNREACH, "denied": syscall.EACCES} {
			if _, err := r.dial(service); !errors.Is(err, want) {
				t.Errorf("%s, %s: got %v, want %v", probe, service, err, want)
			}
		}
		if _, err := r.DialContext(t.Context(), "tcp", "198.18.7.7:1"); !errors.Is(err, connhandler.ErrUnprotected) {
			t.Errorf("unprotected address: got %v", err)
		}
		r.down()
	}
}

func TestMigrateMovesSessions(t *testing.T) {
	for name, elsewhere := range map[string]bool{"anchor elsewhere": true, "P1 is the anchor": false} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, "fleet")
			p1, p2 := f.edge(false), f.edge(true)
			anchor := p1
			if elsewhere {
				anchor = f.anchor()
			}
			r := joined2(t, f, ProbeWarm)
			r.eventually("control link", func() bool { return p1.links() == 1 })
			old := r.mustDial()
			echo(t, old, "before")

			m := &proto.Migrate{ID: proto.MigrateID{Edge: p1.id, Counter: 7}, Targets: []proto.Target{p2.target(r.enrolled().id.Agent)}, Deadline: time.Minute}
			if ok, is := p1.say(m, true).(*proto.MigrateOK); !is || ok.ID != m.ID {
				t.Errorf("got %v, want MIGRATE_OK for %v", ok, m.ID)
			}
			r.eventually("moved to P2", r.at(p2))
			r.eventually("P1's links are closed: completion", func() bool { return len(p1.direct()) == 0 })
			echo(t, old, "goes on by way of P2")
			fresh := r.mustDial()
			echo(t, fresh, "after")
			if want := map[bool][2]int{true: {2, 0}, false: {1, 1}}[elsewhere]; [2]int{anchor.opened(), p2.opened()} != want {
				t.Errorf("%d OPENs at the anchor, %d at P2; want %v: a session stays at its anchor, and no new stream uses an attacked one", anchor.opened(), p2.opened(), want)
			}
			s := r.Status()
			if s.Counts.Moves != 1 || s.Counts.Transfers != 0 {
				t.Errorf("counts %+v, want one move", s.Counts)
			}
			if i := slices.IndexFunc(s.Sessions, func(x SessionStatus) bool { return x.Epoch == 1 && x.Moves == 1 && x.State == "live" }); i < 0 {
				t.Errorf("sessions %+v, want one that was resumed once", s.Sessions)
			}
			old.Close()
			fresh.Close()

			// What P1 says no longer counts, and the next start goes to P2, which no catalogue names.
			cfg := r.cfg
			r.down()
			cfg.Token = ""
			r = start(t, cfg, System{})
			r.eventually("P2 is remembered", r.at(p2))
		})
	}
}

func TestMigrationOnlyFromTheCurrentEdgeAndNeverAnOlderOne(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(true)
	r := joined2(t, f, ProbeWarm)
	r.eventually("control link", func() bool { return p1.links() == 1 })
	to := []proto.Target{p2.target(r.enrolled().id.Agent)}
	foreign := &proto.Migrate{ID: proto.MigrateID{Edge: p2.id, Counter: 9}, Targets: to}
	if ok, is := p1.say(foreign, true).(*proto.MigrateOK); !is || ok.ID != foreign.ID {
		t.Errorf("one that is ignored is acknowledged too, got %v", ok)
	}
	if s := r.Status(); s.Edge == nil || s.Edge.Node != p1.id.String() {
		t.Errorf("edge %v: a migration of another edge moves nobody", s.Edge)
	}
	// P1 → P2 → P1, and then the first notification once more.
	p1.say(&proto.Migrate{ID: proto.MigrateID{Edge: p1.id, Counter: 5}, Targets: to}, true)
	r.eventually("at P2", r.at(p2))
	r.eventually("control link at P2", func() bool { return p2.links() == 1 })
	p2.say(&proto.Migrate{ID: proto.MigrateID{Edge: p2.id, Counter: 1}, Targets: []proto.Target{p1.target(r.enrolled().id.Agent)}}, true)
	r.eventually("back at P1", r.at(p1))
	r.eventually("control link at P1", func() bool { return p1.links() == 1 })
	p1.say(&proto.Migrate{ID: proto.MigrateID{Edge: p1.id, Counter: 4}, Targets: to}, true)
	if !r.at(p1)() || r.Status().Counts.Moves != 2 {
		t.Errorf("an older notification moved the agent: %+v", r.Status())
	}
}

func TestTransferIsFollowedAndRemembered(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2 := f.edge(false), f.edge(true)
	r := joined2(t, f, ProbeWarm)
	cfg, id := r.cfg, r.enrolled().id.Agent
	r.down()
	p1.transferTo(p2, id)
	cfg.Token = ""
	r = start(t, cfg, System{})
	r.eventually("at P2", r.at(p2))
	c := r.mustDial()
	echo(t, c, "x")
	c.Close()
	if s := r.Status(); s.Counts.Transfers == 0 || s.Edge.Name != "" || p1.opened() != 0 {
		t.Errorf("status %+v, %d OPENs at P1", s, p1.opened())
	}
}

func TestCatalogueOnlyGoesForward(t *testing.T) {
	f := newFleet(t, "fleet")
	e := f.edge(false)
	r := joined2(t, f, ProbeWarm)
	r.eventually("control link", func() bool { return e.links() == 1 })
	moved := netip.MustParseAddrPort("198.18.2.2:443")
	has := func(p netip.AddrPort) func() bool {
		return func() bool { return slices.Contains(r.Status().Protected, p.String()) }
	}
	e.say(&proto.CatalogueMsg{Doc: f.newCatalogue(3, moved)}, false)
	r.eventually("the new catalogue's addresses are protected", has(moved))
	other := newFleet(t, "fleet")
	for rule, doc := range map[string][]byte{
		"older": f.newCatalogue(2, protected), "signed by a stranger": other.newCatalogue(9, protected), "garbage": []byte("{}"),
	} {
		before := len(r.Status().Events)
		e.say(&proto.CatalogueMsg{Doc: doc}, false)
		r.eventually(rule+": refused, and said so", func() bool {
			ev := r.Status().Events
			return len(ev) > before && ev[len(ev)-1].What == "catalogue refused"
		})
		if !has(moved)() {
			t.Errorf("%s: a catalogue was taken that must not be", rule)
		}
	}
}

func TestTokensThatDoNotWorkSayWhy(t *testing.T) {
	f, other := newFleet(t, "fleet"), newFleet(t, "other")
	e := f.edge(false)
	other.edge(false)
	good := f.token()
	expired := f.token()
	expired.Expires = time.Now().Add(-time.Minute)
	used := f.token()
	f.used[used.ID] = true
	node := f.token()
	node.Role = proto.RoleEdge
	foreign := f.token() // of another fleet: this one's proxies can't verify it
	foreign.Entries[0].Keys = other.edges[0].target(foreign.ID).Keys
	pinned := f.token() // the proxy that answers has not the CA that the token pins
	pinned.CAHash = proto.CAHash(other.ca)
	for _, tt := range []struct{ rule, token, want string }{
		{"expired", expired.String(), "has expired"},
		{"truncated", good.String()[:len(good.String())-9], "truncated"},
		{"not a token", "hello", "not a join token"},
		{"used", used.String(), "the fleet refuses this token: it was used already"},
		{"for a node", node.String(), "for a node of role edge"},
		{"foreign", foreign.String(), "no entry of this token answered: the token may be of another fleet"},
		{"wrong fleet's proxy", pinned.String(), "not of the fleet that made"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			cfg := testConfig(t)
			cfg.Token = tt.token
			a, err := New(cfg, System{})
			if err != nil {
				t.Fatal(err)
			}
			err = a.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one sentence with %q", err, tt.want)
			}
			if _, err := os.Stat(filepath.Join(cfg.State, stateFile)); err == nil {
				t.Error("a token that does not work leaves no state")
			}
		})
	}
	if e.acc == nil {
		t.Fatal("no edge")
	}
	cfg := testConfig(t)
	a, _ := New(cfg, System{})
	if err := a.Run(t.Context()); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("neither token nor state: got %v, want %v", err, ErrNotEnrolled)
	}
}

func TestEntryThatDoesNotReachTheSigningNode(t *testing.T) {
	f := newFleet(t, "fleet")
	f.edge(false)
	f.edge(false)
	f.away = 2
	cfg := testConfig(t)
	cfg.Token = f.token().String()
	a, err := New(cfg, System{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "the token was not used: the signing node is away") {
		t.Errorf("every entry without the signing node: got %v", err)
	}
	f.mu.Lock()
	f.away = 1
	f.mu.Unlock()
	start(t, cfg, System{}) // the other entry enrols it
}

// TestJoinWaitOutlastsAFleetThatStarts: an agent that starts together with its fleet tries again, but not where somebody has said no.
func TestJoinWaitOutlastsAFleetThatStarts(t *testing.T) {
	f := newFleet(t, "fleet")
	f.edge(false)
	f.away = 1
	cfg := testConfig(t)
	cfg.Token, cfg.JoinWait = f.token().String(), time.Minute
	asked := time.AfterFunc(300*time.Millisecond, func() { // it has asked once, mostly
		f.mu.Lock()
		defer f.mu.Unlock()
		f.away = 0
	})
	defer asked.Stop()
	start(t, cfg, System{}) // up at last

	other := testConfig(t)
	other.Token, other.JoinWait = cfg.Token, time.Minute
	a, err := New(other, System{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := a.Run(ctx); err == nil || !strings.Contains(err.Error(), "it was used already") || ctx.Err() != nil {
		t.Errorf("a token that was used: got %v, %v, want the refusal at once", err, ctx.Err())
	}
}

func TestProxyOfAnotherFleetIsNotTrusted(t *testing.T) {
	f := newFleet(t, "fleet")
	e := f.edge(false)
	r := joined2(t, f, ProbeWarm)
	cfg := r.cfg
	r.down()
	// The same keys and node id, but a certificate of another CA: somebody who stole an edge's secret.
	thief := newFleet(t, "fleet")
	pub, key := newKey(t)
	chain := thief.issue(pub, proto.Identity{Fleet: "fleet", Roles: []proto.Role{proto.RoleEdge, proto.RoleAnchor}, Node: e.id}, 1)
	e.acc.Creds.Cert.Certificate, e.acc.Creds.Cert.PrivateKey = chain, key
	cfg.Token, cfg.Fallback = "", FallbackDirect
	r = start(t, cfg, System{})
	if s := r.Status(); s.State != stateConnecting || !strings.Contains(s.Why, "not trusted") {
		t.Errorf("state %s, why %q", s.State, s.Why)
	}
	if _, err := r.dial("echo"); err == nil || r.Status().Counts.Direct != 0 {
		t.Errorf("dial: %v: a proxy that is not trusted is no reason to go around it", err)
	}
}
