package proxyd

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"migrationsensor/detect"
	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proto/session"
	"migrationsensor/proxyd/firewall"
	"migrationsensor/proxyd/fleet"
	"migrationsensor/proxyd/synchecker"
)

// fakeHost is a machine whose sockets are real ones on loopback; firewall, packet port and counter
// only remember what was asked of them.
type fakeHost struct {
	kernel
	fw fakeFirewall

	mu    sync.Mutex
	dead  map[string]bool // where it can't dial: the way there is cut
	calls []call
	flood bool
	count detect.Counts
	mode  synchecker.Mode
	ports []string // where a packet port was opened
	full  int      // so many ports can't be opened
	moved string   // where all addresses are now, if not where they were at first
	links func()   // tells of a change
}

func (h *fakeHost) Lock() (func() error, error)                { return func() error { return nil }, nil }
func (h *fakeHost) Counter(string) (detect.Counter, error)     { return h, nil }
func (h *fakeHost) Firewall(firewall.Config) (Firewall, error) { return &h.fw, nil }
func (h *fakeHost) Port(ifname string, _ synchecker.Filter, _ synchecker.Path) (synchecker.Port, synchecker.Taken, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full > 0 {
		h.full--
		return nil, synchecker.Taken{}, syscall.ENOMEM
	}
	h.ports = append(h.ports, ifname)
	return &fakePort{h: h, closed: make(chan struct{})}, synchecker.Taken{Path: "fake"}, nil
}

func (h *fakeHost) Links(ctx context.Context, changed func()) error {
	h.mu.Lock()
	h.links = changed
	h.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (h *fakeHost) Interface(netip.Addr) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.moved != "" {
		return h.moved, nil
	}
	return "backplane0", nil
}

// call is a connection that the host dialled.
type call struct {
	to string
	c  net.Conn
}

func (h *fakeHost) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead[addr] {
		return nil, syscall.ENETUNREACH
	}
	c, err := h.kernel.Dial(ctx, network, addr)
	if err == nil {
		h.calls = append(h.calls, call{addr, c})
	}
	return c, err
}

// cut ends the way to an address, for what is there and what comes.
func (h *fakeHost) cut(to string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead == nil {
		h.dead = map[string]bool{}
	}
	h.dead[to] = true
	for _, c := range h.calls {
		if c.to == to {
			c.c.Close()
		}
	}
}

// attack begins or ends a SYN flood.
func (h *fakeHost) attack(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flood = on
}

// Read and Close make it a detect.Counter.
func (h *fakeHost) Read() (detect.Counts, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.flood {
		h.count[detect.SYN] += 100_000
		h.count[detect.All] += 100_000
	}
	return h.count, nil
}

func (h *fakeHost) Close() error { return nil }

func (h *fakeHost) armed() synchecker.Mode {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mode
}

// fakePort never has a frame.
type fakePort struct {
	h      *fakeHost
	once   sync.Once
	closed chan struct{}
}

func (p *fakePort) Read([]synchecker.Frame) (int, error) { <-p.closed; return 0, net.ErrClosed }
func (p *fakePort) Write(b [][]byte) (int, error)        { return len(b), nil }
func (p *fakePort) Lost() uint64                         { return 0 }
func (p *fakePort) Close() error                         { p.once.Do(func() { close(p.closed) }); return nil }
func (p *fakePort) Arm(m synchecker.Mode) error {
	select {
	case <-p.closed:
		return net.ErrClosed
	default:
	}
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	p.h.mode = m
	return nil
}

// fakeFirewall notes what it is told.
type fakeFirewall struct {
	mu        sync.Mutex
	open      bool
	defending bool
	defends   int
	flows     []firewall.Flow
	admits    map[netip.Addr]time.Time
	expire    bool // admissions end at once: the door is empty as soon as nobody holds it
	refuse    int  // so many updates
	guards    []string
}

func (f *fakeFirewall) Open() (func() error, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open, f.admits = true, map[netip.Addr]time.Time{}
	return func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.open = false
		return nil
	}, nil
}

func (f *fakeFirewall) Defend(flows []firewall.Flow) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.defending, f.flows = true, flows
	f.defends++
	return nil
}

func (f *fakeFirewall) Relax() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.defending = false
	return nil
}

func (f *fakeFirewall) Admit(a netip.Addr, ttl time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.admits[a] = time.Now().Add(ttl)
	return nil
}

func (f *fakeFirewall) Admitted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.expire {
		return 0
	}
	return len(f.admits)
}

func (f *fakeFirewall) Update(cfg firewall.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse > 0 {
		f.refuse--
		return syscall.ENOBUFS
	}
	f.guards = cfg.Interfaces
	return nil
}

func (f *fakeFirewall) Stats() (firewall.Stats, error) { return firewall.Stats{}, nil }

func (f *fakeFirewall) Watch(ctx context.Context) error { <-ctx.Done(); return nil }

func (f *fakeFirewall) get() (open, defending bool, defends, flows, admits int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open, f.defending, f.defends, len(f.flows), len(f.admits)
}

// world is a fleet on loopback: a signing node, entry P1, hidden P2 and an origin that echoes.
type world struct {
	t      *testing.T
	base   string
	cfg    Config // of the signing node
	hosts  map[string]*fakeHost
	nodes  map[string]*Proxy
	public netip.AddrPort // of the service, for plain clients
}

// newWorld starts one; with may change what the signing node declares, and the settings of each node.
func newWorld(t *testing.T, with ...func(*Config)) *world {
	base, err := os.MkdirTemp("", "ms") // short: a socket's path has 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	w := &world{t: t, base: base, hosts: map[string]*fakeHost{}, nodes: map[string]*Proxy{}, public: freeAddr(t)}
	lo := []netip.Addr{w.public.Addr()}
	w.cfg = w.config("sign")
	w.cfg.Fleet = "test"
	w.cfg.Services = []ServiceConfig{{Name: "echo", Public: []netip.AddrPort{w.public}, Origin: w.origin(), Plain: "drop"}}
	w.cfg.Nodes = []NodeConfig{
		{Name: "sign", Kind: "signer", Backplane: freeAddr(t)},
		{Name: "p1", Kind: "entry", Public: lo, LinkPort: freeAddr(t).Port(), Backplane: freeAddr(t), Neighbours: []string{"p2"}},
		{Name: "p2", Kind: "hidden", Public: lo, LinkPort: freeAddr(t).Port(), Backplane: freeAddr(t)},
	}
	for _, change := range with {
		change(&w.cfg)
	}
	if _, err := fleet.Init(w.cfg.State, w.cfg.Declaration(), time.Now()); err != nil {
		t.Fatal(err)
	}
	w.run("sign", w.cfg)
	for _, n := range w.cfg.Nodes[1:] {
		w.join(n.Name)
		cfg := w.config(n.Name)
		for _, change := range with {
			change(&cfg)
		}
		w.run(n.Name, cfg)
	}
	w.eventually("P1 holds P2's handover key", func() bool { return w.nodes["p1"].edge.informer.Replacement() })
	for _, n := range w.cfg.Nodes[1:] {
		w.eventually(n.Name+" takes links", func() bool { return w.listens(n.Name) })
	}
	return w
}

// freePorts counts blocks of eight ports, from anywhere on: two of this process never meet, nor do the ports behind them,
// which are a backplane's for relayed links.
var freePorts = func() *atomic.Uint32 {
	var n atomic.Uint32
	n.Store(rand.Uint32())
	return &n
}()

// freeAddr is a port that is free and stays so, as are the seven behind it: none of those from which the kernel gives every
// dialler one.
func freeAddr(t *testing.T) netip.AddrPort {
	for range 100 {
		at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(10000+8*(freePorts.Add(1)%2500)))
		if allFree(at, 8) {
			return at
		}
	}
	t.Fatal("no free ports")
	return netip.AddrPort{}
}

func allFree(at netip.AddrPort, n uint16) bool {
	for i := range n {
		l, err := net.Listen("tcp", netip.AddrPortFrom(at.Addr(), at.Port()+i).String())
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

func (w *world) config(name string) Config {
	cfg := DefaultConfig()
	cfg.State, cfg.Socket = filepath.Join(w.base, name), filepath.Join(w.base, name+".sock")
	cfg.Interface = "public0"
	cfg.Detector.Interval.Duration = 100 * time.Millisecond
	cfg.Attack.Quiet.Duration = 400 * time.Millisecond
	cfg.Attack.SuspendAfter.Duration = 20 * time.Second
	return cfg
}

// origin echoes until the client has finished, then says so.
func (w *world) origin() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // a reset ends it: the test looks at the other end
			})
		}
	})
	w.t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

func (w *world) join(name string) {
	w.t.Helper()
	role := proto.RoleEdge
	if w.node(name).Kind == fleet.KindAnchor {
		role = proto.RoleAnchor
	}
	token, err := fleet.CreateToken(w.cfg.State, fleet.TokenRequest{Role: role, Uses: 1, Life: time.Hour}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	w.eventually(name+" joins", func() bool { // the signing node may not listen yet
		_, err = fleet.Join(w.t.Context(), fleet.JoinConfig{Dir: filepath.Join(w.base, name), As: name, Token: token})
		return err == nil
	})
}

// run starts a node; it stops with the test, asked, without an error.
func (w *world) run(name string, cfg Config) {
	w.t.Helper()
	h := &fakeHost{}
	p, err := newOn(h, cfg, slog.New(slog.NewTextHandler(w.t.Output(), nil)).With("at", name))
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	w.hosts[name], w.nodes[name] = h, p
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("%s: a stop that was asked for: got %v", name, err)
		}
		if open, _, _, _, _ := h.fw.get(); open {
			w.t.Errorf("%s left its firewall", name)
		}
	})
}

func (w *world) node(name string) proto.FleetNode {
	for _, n := range w.nodes["sign"].state.Doc().Nodes {
		if n.Name == name {
			return n
		}
	}
	w.t.Fatalf("no node %s", name)
	return proto.FleetNode{}
}

func (w *world) listens(name string) bool {
	n := w.node(name)
	at := n.Backplane
	if len(n.Public) > 0 {
		at = netip.AddrPortFrom(n.Public[0], n.LinkPort)
	}
	c, err := net.Dial("tcp", at.String())
	if err == nil {
		c.Close()
	}
	return err == nil
}

func (w *world) state(name string) State { return w.nodes[name].Status().State }

// eventually polls what other goroutines do, for at most twenty seconds.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not seen: %s", what)
		}
	}
}

func (w *world) becomes(name string, s State) {
	w.t.Helper()
	w.eventually(name+" is "+string(s), func() bool { return w.state(name) == s })
}

// client is the agent's side of the wire: enrolled, with its target for P1.
type client struct {
	*link.Dialer
	w     *world
	id    proto.AgentID
	entry proto.Target
	boot  uint64
}

// enrol joins through P1 with a token for one use.
func (w *world) enrol() *client {
	w.t.Helper()
	token, err := fleet.CreateToken(w.cfg.State, fleet.TokenRequest{Role: proto.RoleAgent, Uses: 1, Life: time.Hour}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{}, key)
	if err != nil {
		w.t.Fatal(err)
	}
	d := &link.Dialer{Creds: link.Credentials{CAHash: token.CAHash}}
	l, _, err := d.Follow(w.t.Context(), token.Entries[0], proto.KindEnrol)
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.Close()
	if err := proto.WriteMessage(l, &proto.Enrol{Token: token.ID, Secret: token.Secret, CSR: csr}); err != nil {
		w.t.Fatal(err)
	}
	m, err := proto.NewReader(l, 1<<20).Message()
	ok, is := m.(*proto.EnrolOK)
	if err != nil || !is || len(ok.Keys.Entries) != 1 {
		w.t.Fatalf("enrolment: got %T %+v, %v", m, m, err)
	}
	ca, err := x509.ParseCertificate(ok.Chain[len(ok.Chain)-1])
	if err != nil {
		w.t.Fatal(err)
	}
	entry := token.Entries[0]
	entry.Key, entry.Keys = ok.Keys.Entries[0].Key, ok.Keys.Entries[0].Keys
	return &client{w: w, id: proto.AgentIDOf(key.Public().(ed25519.PublicKey)), entry: entry, Dialer: &link.Dialer{
		Creds: link.Credentials{CA: ca, Cert: tls.Certificate{Certificate: ok.Chain, PrivateKey: key}, Fleet: "test"},
	}}
}

// control opens a control link to the agent's current edge; what the edge says comes out of the channel until the link
// ends.
func (c *client) control(t proto.Target, told bool) (*link.Link, <-chan proto.Message) {
	c.w.t.Helper()
	l, said := c.controlLink(t, told, true)
	c.w.eventually("the edge knows that it is the current one", func() bool {
		for _, p := range c.w.nodes {
			if p.edge != nil && p.edge.self.ID == t.Node {
				return slices.ContainsFunc(p.Agents(), func(a AgentStatus) bool { return a.ID == c.id.String() && !a.StandsBy })
			}
		}
		return false
	})
	return l, said
}

func (c *client) controlLink(t proto.Target, told, current bool) (*link.Link, <-chan proto.Message) {
	c.w.t.Helper()
	l := c.link(t, proto.KindControl, told)
	c.boots(l, current)
	said := make(chan proto.Message, 64)
	go func() {
		defer close(said)
		for r := proto.NewReader(l, 1<<20); ; {
			m, err := r.Message()
			if err != nil {
				return
			}
			said <- m
		}
	}()
	for _, want := range []proto.FrameType{proto.TypeCatalogue, proto.TypeKeys} {
		if m := c.next(said); m.Type() != want {
			c.w.t.Fatalf("an edge introduces itself with %#x, want %#x", m.Type(), want)
		}
	}
	return l, said
}

// boots says on a control link which start of the agent it is of, and whether it is the current one.
func (c *client) boots(l *link.Link, current bool) {
	c.w.t.Helper()
	if err := proto.WriteMessage(l, &proto.Boot{ID: c.boot, Current: current, Version: "test"}); err != nil {
		c.w.t.Fatal(err)
	}
}

func (c *client) link(t proto.Target, kind proto.Kind, told bool) *link.Link {
	c.w.t.Helper()
	follow := c.Follow
	if told {
		follow = c.FollowTold
	}
	l, _, err := follow(c.w.t.Context(), t, kind)
	if err != nil {
		c.w.t.Fatal(err)
	}
	c.w.t.Cleanup(func() { l.Abort() })
	return l
}

func (c *client) next(said <-chan proto.Message) proto.Message {
	c.w.t.Helper()
	select {
	case m, ok := <-said:
		if !ok {
			c.w.t.Fatal("the edge closed the control link")
		}
		return m
	case <-time.After(20 * time.Second):
		c.w.t.Fatal("the edge says nothing")
	}
	return nil
}

// session opens a data link with a session on it; end closes both.
func (c *client) session(t proto.Target, told bool) (s *session.Session, end func()) {
	c.w.t.Helper()
	l := c.link(t, proto.KindData, told)
	s = session.New(session.Config{})
	share := s.Ask()
	done := make(chan struct{})
	go func() { defer close(done); s.Close(link.Pump(context.Background(), l, share)) }()
	end = sync.OnceFunc(func() { s.Close(nil); <-done })
	c.w.t.Cleanup(end)
	return s, end
}

// open is an application's connection.
func (c *client) open(s *session.Session) io.ReadWriteCloser {
	c.w.t.Helper()
	st, err := s.Open(c.w.t.Context(), "echo")
	if err != nil {
		c.w.t.Fatal(err)
	}
	return st
}

// says checks that the application at the other end of rw answers.
func (c *client) says(rw io.ReadWriter, word string) {
	c.w.t.Helper()
	if _, err := io.WriteString(rw, word); err != nil {
		c.w.t.Fatal(err)
	}
	b := make([]byte, len(word))
	if _, err := io.ReadFull(rw, b); err != nil || string(b) != word {
		c.w.t.Fatalf("origin answers %q, %v; want %q", b, err, word)
	}
}
