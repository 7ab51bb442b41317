package fleet

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"migrationsensor/proto"
)

// testFleet is a fleet on loopback: each node on its own address of 127.0.0.0/8 (only 127.0.0.1 on
// systems that have no other).
type testFleet struct {
	t     *testing.T
	base  string
	decl  Declaration
	mu    sync.Mutex
	clock time.Time
}

func newTestFleet(t *testing.T) *testFleet {
	f := &testFleet{t: t, base: t.TempDir(), clock: time.Now()}
	f.decl = Declaration{
		Fleet:    "test",
		Services: []DeclaredService{{Name: "web", Public: []netip.AddrPort{netip.MustParseAddrPort("198.18.0.1:443")}, Origin: "10.0.0.1:443", Groups: []string{"staff"}, Anchors: []string{"a1"}, Plain: "drop"}},
		Nodes: []DeclaredNode{
			{Name: "sign", Kind: KindSigner, Backplane: f.freeAddr()},
			{Name: "p1", Kind: KindEntry, Public: []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("2001:2::1")}, LinkPort: 7443, Backplane: f.freeAddr(), Neighbours: []string{"p2"}},
			{Name: "p2", Kind: KindHidden, Public: []netip.Addr{netip.MustParseAddr("198.18.0.2")}, LinkPort: 7443, Backplane: f.freeAddr()},
			{Name: "p3", Kind: KindHidden, Public: []netip.Addr{netip.MustParseAddr("198.18.0.3")}, LinkPort: 7443, Backplane: f.freeAddr()},
			{Name: "a1", Kind: KindAnchor, Backplane: f.freeAddr()},
		},
	}
	if _, err := Init(f.dir("sign"), f.decl, f.now()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *testFleet) freeAddr() netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func (f *testFleet) dir(name string) string { return filepath.Join(f.base, name) }

func (f *testFleet) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clock
}

func (f *testFleet) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clock = f.clock.Add(d)
}

func (f *testFleet) state(name string) *State {
	f.t.Helper()
	s, err := OpenState(f.dir(name), f.now)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *testFleet) signer() *Signer {
	f.t.Helper()
	s, err := OpenSigner(f.state("sign"), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := s.Declare(f.decl); err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *testFleet) token(req TokenRequest) proto.Token {
	f.t.Helper()
	if req.Life == 0 {
		req.Life = time.Hour
	}
	t, err := CreateToken(f.dir("sign"), req, f.now())
	if err != nil {
		f.t.Fatal(err)
	}
	again, err := proto.ParseToken(t.String())
	if err != nil {
		f.t.Fatal(err)
	}
	return again
}

// join lets a node in and returns its state; a signer must run.
func (f *testFleet) join(name string) *State {
	f.t.Helper()
	role := proto.RoleEdge
	if name == "a1" {
		role = proto.RoleAnchor
	}
	return f.joinWith(name, f.token(TokenRequest{Role: role, Uses: 1}))
}

func (f *testFleet) joinWith(name string, token proto.Token) *State {
	f.t.Helper()
	s, err := Join(f.t.Context(), JoinConfig{Dir: f.dir(name), As: name, Token: token, Now: f.now})
	if err != nil {
		f.t.Fatalf("join as %s: %v", name, err)
	}
	return s
}

// handler records what peers say.
type handler struct {
	mu     sync.Mutex
	beats  map[proto.NodeID]proto.Heartbeat
	docs   []uint64
	keys   []proto.NodeID
	ratify []*proto.Ratify
}

func (h *handler) UserInfo(_ proto.NodeID, m *proto.UserInfo) proto.Message {
	return &proto.UserInfoOK{Round: m.Round, Load: uint16(len(m.Clients))}
}
func (h *handler) Ratify(_ proto.NodeID, m *proto.Ratify) proto.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ratify = append(h.ratify, m)
	return &proto.RatifyOK{Attempt: m.Attempt, Load: 7}
}
func (h *handler) Heartbeat(from proto.NodeID, m *proto.Heartbeat) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.beats == nil {
		h.beats = map[proto.NodeID]proto.Heartbeat{}
	}
	h.beats[from] = *m
}
func (h *handler) Handover(from proto.NodeID, _ *proto.Handover) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys = append(h.keys, from)
}
func (h *handler) FleetChanged(doc *proto.FleetDoc, _ []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.docs = append(h.docs, doc.Version)
}

// running is a node whose Peers run.
type running struct {
	*Peers
	h    *handler
	stop func()
}

// run starts a node's Peers; they stop with the test.
func (f *testFleet) run(name string) *running {
	f.t.Helper()
	cfg := PeersConfig{Log: slog.New(slog.NewTextHandler(f.t.Output(), nil)).With("at", name)}
	if name == "sign" {
		cfg.Signer = f.signer()
	} else {
		cfg.State = f.state(name)
	}
	return f.start(name, cfg)
}

func (f *testFleet) start(name string, cfg PeersConfig) *running {
	f.t.Helper()
	h := &handler{}
	cfg.Handler = h
	cfg.Heartbeat = func() proto.Heartbeat { return proto.Heartbeat{Load: 5, State: "state of " + name} }
	p, err := NewPeers(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("%s: a stop that was asked for: got %v", name, err)
		}
	})
	f.t.Cleanup(stop)
	f.listening(p)
	return &running{p, h, stop}
}

// listening waits until a node takes links.
func (f *testFleet) listening(p *Peers) {
	f.t.Helper()
	self, _ := p.cfg.State.Self()
	f.eventually("it listens", func() error {
		c, err := net.Dial("tcp", self.Backplane.String())
		if err == nil {
			c.Close()
		}
		return err
	})
}

// eventually polls what other goroutines do, for at most ten seconds.
func (f *testFleet) eventually(what string, ok func() error) {
	f.t.Helper()
	end := time.Now().Add(10 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			f.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (f *testFleet) id(name string) proto.NodeID {
	f.t.Helper()
	for _, n := range f.state("sign").Doc().Nodes {
		if n.Name == name {
			return n.ID
		}
	}
	f.t.Fatalf("no node %s", name)
	return proto.NodeID{}
}

func (f *testFleet) sees(r *running, name string) {
	f.t.Helper()
	f.eventually(name+" is up", func() error {
		if !r.Up()[f.id(name)].Up {
			return fmt.Errorf("%+v", r.Up())
		}
		return nil
	})
}

// agentKey is an agent's key and its certificate request.
func agentKey(t *testing.T) (ed25519.PrivateKey, []byte) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := newRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}
