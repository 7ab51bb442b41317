package proxyd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"migrationsensor/detect"
	"migrationsensor/proto"
	"migrationsensor/proto/link"
	"migrationsensor/proxyd/anchor"
	"migrationsensor/proxyd/firewall"
	"migrationsensor/proxyd/informer"
	"migrationsensor/proxyd/packethandler"
	"migrationsensor/proxyd/synchecker"
)

// edge is a node that faces the internet: the components of the paper's proxy, joined.
type edge struct {
	// set once
	p        *Proxy
	log      *slog.Logger
	host     Host
	self     proto.FleetNode
	hidden   bool
	ifname   atomic.Pointer[string] // of the public interface; see line
	port     *movingPort
	keys     *proto.Keyring
	door     *door
	acceptor *link.Acceptor
	anchor   *anchor.Anchor
	packets  *packethandler.Handler
	checker  *synchecker.Checker
	informer *informer.Informer
	intake   *intake
	firewall Firewall
	counter  detect.Counter
	detector *detect.Detector
	wake     chan struct{} // 1-buffered: the loop looks at the load again
	alarm    chan struct{} // 1-buffered: the verdict has changed
	changed  chan struct{} // 1-buffered: the loop follows a new FLEET document

	services services
	verdict  atomic.Pointer[detect.Verdict]
	stopping atomic.Bool // its agents are being sent on; no new link is taken

	clones    clones
	strangers *strangers

	mu      sync.Mutex
	machine *machine
	counts  counts
	drainTo proto.NodeID // of the operator's drain; zero: each client its own
}

// counts are the proxy's own, beside those of its components.
type counts struct {
	suspensions uint64
	clones      uint64 // agents that two machines use
	retries     uint64 // links told to come again, because too many came at once
}

func newEdge(p *Proxy) (*edge, error) {
	self, ok := p.state.Self()
	if !ok {
		return nil, fmt.Errorf("the signing node no longer declares this node (%s): declare it again, or join under another name", p.state.Node().Name)
	}
	e := &edge{
		p: p, log: p.log, host: p.host, self: self, hidden: self.Kind == "hidden",
		keys: new(proto.Keyring), wake: make(chan struct{}, 1), alarm: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
	p.state.FillKeyring(e.keys)
	ifname, err := e.findLine()
	if err != nil {
		return nil, err
	}
	e.ifname.Store(&ifname)
	th := p.cfg.Detector.Threshold
	e.detector = detect.New(detect.Config{
		Threshold: [detect.Kinds]float64{detect.All: th.All, detect.SYN: th.SYN, detect.ICMP: th.ICMP, detect.UDP: th.UDP},
		Interval:  p.cfg.Detector.Interval.Duration, Quiet: p.cfg.Detector.Interval.Duration,
	})
	e.machine = newMachine(e.hidden, p.cfg.Attack.Quiet.Duration, p.cfg.Attack.SuspendAfter.Duration, e.host.Now())
	e.informer = informer.New(informer.Config{Self: self.ID, Peers: lazyPeers{p}, Rate: p.cfg.Admission.Rate, Now: e.host.Now, Log: p.log})
	e.intake = newIntake(float64(p.cfg.Admission.Rate), float64(p.cfg.Admission.Burst), e.host.Now())
	e.services.set(p.state.Doc())
	e.anchor = newAnchor(p, &e.services)
	e.packets = packethandler.New(packethandler.Config{
		Services: e.plainServices(p.state.Doc()), Dial: e.host.Dial, Log: p.log,
		Listen: func(a netip.AddrPort) (net.Listener, error) { return e.host.Listen(context.Background(), a) },
	})
	e.door = newDoor(e, e.allowed())
	e.strangers = newStrangers(e.host.Now)
	nonces := proto.NewNonceSet()
	e.acceptor = &link.Acceptor{
		Creds:  link.Credentials{CA: p.state.CA(), Current: p.state.Certificate, Fleet: p.state.Node().Fleet},
		Node:   self.ID,
		Keys:   e.keys,
		Nonces: nonces,
		Decide: e.decide, Control: e.control, Data: e.data, Enrol: e.enrol, Relay: e.relay, Anchors: p.isAnchor, Gone: p.isGone,
		Clock: e.host.Now, Log: p.log, Stranger: e.strangers.count,
	}
	e.door.nonces = nonces
	return e, nil
}

// lazyPeers lets the Informer be made before the peer links.
type lazyPeers struct{ p *Proxy }

func (l lazyPeers) Request(ctx context.Context, to proto.NodeID, m proto.Message) (proto.Message, error) {
	return l.p.peers.Request(ctx, to, m)
}

// allowed are the sources that no door is ever closed to: management, and peers where the backplane
// is the public interface.
func (e *edge) allowed() []netip.Prefix {
	allow := slices.Clone(e.p.cfg.Firewall.Allow)
	if ifname, err := e.host.Interface(e.self.Backplane.Addr()); err == nil && ifname == e.line() {
		e.log.Warn("the backplane is the public interface: peers share the line that is attacked", "interface", ifname)
		for _, n := range e.p.state.Doc().Nodes {
			if n.ID != e.self.ID && n.Backplane.IsValid() {
				allow = append(allow, netip.PrefixFrom(n.Backplane.Addr(), n.Backplane.Addr().BitLen()))
			}
		}
	}
	return allow
}

// open takes the packet port, the counter and the firewall. A hidden edge is dark when it returns.
func (e *edge) open(ctx context.Context) (undo func() error, err error) {
	guard := e.firewallConfig(e.p.state.Doc())
	if e.firewall, err = e.host.Firewall(guard); err != nil {
		return nil, err
	}
	e.port, err = newMovingPort(e.line(), func(ifname string) (synchecker.Port, synchecker.Taken, error) {
		port, taken, err := e.host.Port(ifname, synchecker.Filter{Addrs: e.self.Public, LinkPort: e.self.LinkPort}, synchecker.Path(e.p.cfg.SYNChecker.Path))
		if err == nil {
			e.log.Info("SYN Checker's data path", "interface", ifname, "path", taken.Path, "not", strings.Join(taken.Why, "; "))
		}
		return port, taken, err
	})
	if err != nil {
		return nil, err
	}
	port := e.port
	port.doors = e.door.all
	budget := e.p.cfg.SYNChecker
	if e.checker, err = synchecker.New(synchecker.Config{
		Port: port, Addrs: e.self.Public, LinkPort: e.self.LinkPort, Keys: e.keys, Node: e.self.ID,
		Nonces: e.door.nonces, Budget: synchecker.BudgetConfig{Probability: budget.Probability, Answers: budget.Answers, Processor: budget.Processor},
		Verified: e.door.verified, Admit: e.door.knocked, Stranger: e.strangers.count, Admitted: e.door.admitted, Log: e.log, Now: e.host.Now,
	}); err != nil {
		return nil, errors.Join(err, port.Close())
	}
	if cookies := slices.ContainsFunc(guard.Services, func(a netip.AddrPort) bool { return guard.Plain(a) == firewall.PlainCookie }); cookies && !e.host.SYNCookies() {
		e.log.Warn("the kernel takes no SYN cookies, so no new plain client gets in during an attack: sysctl net.ipv4.tcp_syncookies=1, or set plain = \"drop\" for the services")
	}
	if err := port.Gate(gateOf(guard)); err != nil {
		return nil, errors.Join(err, port.Close())
	}
	if e.counter, err = newMovingCounter(e.line, e.host.Counter); err != nil {
		return nil, errors.Join(err, port.Close())
	}
	if undo, err = e.firewall.Open(); err != nil {
		return nil, errors.Join(err, port.Close(), e.counter.Close())
	}
	if e.hidden {
		if err := e.checker.SetMode(synchecker.Dark); err != nil {
			return nil, errors.Join(err, undo(), port.Close(), e.counter.Close())
		}
	}
	return undo, nil
}

// start adds the edge's parts to the group.
func (e *edge) start(ctx context.Context, g *errgroup.Group) {
	part := func(name string, run func(context.Context) error) {
		g.Go(func() error {
			if err := run(ctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	part("SYN Checker", e.checker.Run)
	part("DDoS Detector", e.detect)
	part("Informer", e.informer.Run)
	part("door", e.door.run)
	part("states", e.loop)
	part("anchor", e.anchor.Run)
	part("firewall", e.firewall.Watch)
	part("public interface", e.followLine)
	if !e.hidden {
		part("Packet Handler", e.packets.Run)
	}
	e.p.serveRelayed(e.self, e.acceptor, part)
	for _, a := range e.self.Public {
		part("links", func(ctx context.Context) error {
			l, err := e.host.Listen(ctx, netip.AddrPortFrom(a, e.self.LinkPort))
			if err != nil {
				return err
			}
			return e.acceptor.Serve(ctx, l)
		})
	}
}

// mine reports whether a public address of a service is on this edge.
func (e *edge) mine(a netip.AddrPort) bool { return slices.Contains(e.self.Public, a.Addr()) }

func (e *edge) plainServices(doc *proto.FleetDoc) (out []packethandler.Service) {
	for _, s := range doc.Services {
		public := slices.DeleteFunc(slices.Clone(s.Public), func(a netip.AddrPort) bool { return !e.mine(a) })
		if len(public) > 0 {
			out = append(out, packethandler.Service{Name: s.Name, Public: public, Origin: s.Origin, ProxyProtocol: s.ProxyProtocol, Steady: plainOf(s.Plain) != firewall.PlainDrop})
		}
	}
	return out
}

func (e *edge) firewallConfig(doc *proto.FleetDoc) firewall.Config {
	cfg := firewall.Config{
		Interfaces: []string{e.line()}, Addrs: e.self.Public, LinkPort: e.self.LinkPort,
		Hidden: e.hidden, Allow: e.allowed(), Log: e.log, Evicted: e.door.evicted,
	}
	if ifname, err := e.host.Interface(e.self.Backplane.Addr()); err == nil && ifname != e.line() {
		cfg.Inside = []string{ifname}
	}
	plain := map[netip.AddrPort]firewall.Plain{}
	for _, s := range doc.Services {
		for _, a := range s.Public {
			if e.mine(a) {
				cfg.Services = append(cfg.Services, a)
				plain[a] = plainOf(s.Plain)
			}
		}
	}
	cfg.Plain = func(a netip.AddrPort) firewall.Plain { return plain[a] }
	return cfg
}

// plainOf reads a service's `plain`; what another version may have written lets nobody in.
func plainOf(s string) firewall.Plain {
	switch s {
	case PlainAdmit:
		return firewall.PlainAdmit
	case PlainCookie:
		return firewall.PlainCookie
	}
	return firewall.PlainDrop
}

// poke makes the loop look again at once.
func (e *edge) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}
