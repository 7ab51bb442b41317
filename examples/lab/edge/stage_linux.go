package edge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/kernel"
)

// Which processor does what: edgeCPU is the attacked edge's, restCPU everything else's.
const (
	restCPU = 0
	edgeCPU = 1
)

// The bench goes ahead of what else the machine does, and first of all the cable's way back, which must not be full because a storm
// keeps its processor.
const (
	ahead = -10
	first = -20
)

// stage is the world with its two edges that are attacked.
type stage struct {
	*fleet.Fleet
	base    *target // the systems that are not ours, one at a time
	p1      *target
	near    *kernel.Namespace
	visitor *visitor // clients on a machine of their own
	user    *visitor // and on the real agent's
	unpin   string   // why the edge's ring has no processor of its own; empty: it has

	enrolled bool // the real agent has its token
}

// target is an edge that can be flooded.
type target struct {
	ns    *kernel.Namespace
	cable *lab.Cable
	wire  *flood.Wire
	at    netip.Addr
	child string // the name of the program that runs on it
}

// newStage makes it. What it returns must be closed, also with an error.
func newStage(ctx context.Context, o Options, say func(string, ...any)) (*stage, error) {
	s := &stage{}
	id := fmt.Sprintf("%06x", rand.IntN(1<<24)) // the kernel's threads are told apart by it
	var err error
	s.Fleet, err = fleet.New(ctx, fleet.Config{
		Bin: o.Bin, Lab: o.Lab, Logs: filepath.Join(o.Out, "edge-logs"), RTT: 200 * time.Microsecond, Restless: true,
		Edge: attacked, Cable: "p" + id,
	}, say)
	if err != nil {
		return s, err
	}
	ns, err := s.World.AddProxy(lab.Proxy{Name: "base", Public: lab.PlainP1, Back: lab.BackPlainP1})
	if err != nil {
		return s, err
	}
	cable, err := s.World.OpenCable(ns, lab.PlainP1, "b"+id)
	if err != nil {
		return s, err
	}
	s.base = &target{ns: ns, cable: cable, at: lab.PlainP1.V4}
	s.p1 = &target{ns: s.World.P1, cable: s.Cable, at: lab.P1.V4, child: "p1"}
	for _, t := range []*target{s.base, s.p1} {
		sources := lab.FloodSources4.Addr().As4()
		if t.wire, err = flood.NewWire(t.cable.NS, t.cable.Client, t.cable.Edge, [2]byte(sources[:2])); err != nil {
			return s, err
		}
		if err := t.ns.Stay(edgeCPU); err != nil {
			return s, err
		}
		if err := s.ring(t, true); err != nil {
			return s, err
		}
	}
	if s.near, err = s.World.AddNear("near", lab.Near); err != nil {
		return s, err
	}
	if s.visitor, err = newVisitor(s, s.near); err != nil {
		return s, err
	}
	s.user, err = newVisitor(s, s.World.Client)
	return s, err
}

// ring gives the edge's ring and the cable's way back a thread of the kernel each, and the edge's a processor of its own; or it takes
// them away, so that who sends does the work.
func (s *stage) ring(t *target, own bool) error {
	for _, x := range []struct {
		ns        *kernel.Namespace
		dev       string
		cpu, nice int
	}{{t.ns, t.cable.Proxy, edgeCPU, ahead}, {t.cable.NS, t.cable.Edge, restCPU, first}} {
		if err := x.ns.Threaded(x.dev, own); err != nil {
			return fmt.Errorf("a thread for the ring of %s: %w", x.dev, err)
		}
		if !own {
			continue
		}
		if err := kernel.PinThread("napi/"+x.dev+"-", x.cpu, x.nice); err != nil {
			s.unpin = err.Error()
		}
	}
	return nil
}

// close ends everything.
func (s *stage) close() error {
	var errs []error
	for _, v := range []*visitor{s.visitor, s.user} {
		if v != nil {
			errs = append(errs, v.close())
		}
	}
	for _, t := range []*target{s.base, s.p1} {
		if t != nil && t.wire != nil {
			errs = append(errs, t.wire.Close())
		}
	}
	return errors.Join(append(errs, s.Fleet.Close())...)
}

// visitor is the program of the clients and how to ask it.
type visitor struct {
	cmd    *exec.Cmd
	client *rpc.Client
}

// newVisitor starts it on a machine.
func newVisitor(s *stage, on *kernel.Namespace) (*visitor, error) {
	log, err := os.OpenFile(s.Paths("visitor").Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	v := &visitor{cmd: exec.Command(s.Lab(), "visitor")}
	v.cmd.Stderr = log
	in, err := v.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := on.Start(v.cmd); err != nil {
		return nil, fmt.Errorf("start the visitors: %w", err)
	}
	v.client = rpc.NewClient(fleet.Pipes{ReadCloser: out, In: in})
	return v, nil
}

// ask calls the program and waits, ctx at most.
func (v *visitor) ask(ctx context.Context, method string, args, reply any) error {
	done := v.client.Go("Visitor."+method, args, reply, make(chan *rpc.Call, 1)).Done
	select {
	case call := <-done:
		return call.Error
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *visitor) close() error {
	err := v.client.Close() // the program ends with its input
	_ = v.cmd.Wait()        // what it says of a cut pipe is no news
	return err
}

// The settings of the kernel of the systems that are not ours.
var (
	frugal   = map[string]string{"ipv4/tcp_syncookies": "0", "ipv4/tcp_max_syn_backlog": "128", "core/somaxconn": "128"}
	generous = map[string]string{"ipv4/tcp_syncookies": "1", "ipv4/tcp_max_syn_backlog": "4096", "core/somaxconn": "4096"}
)

// needs are programs of others, and the packages that they come from.
var needs = map[string]struct{ program, from string }{haproxy: {"haproxy", "haproxy"}, synproxy: {"nft", "nftables"}}

// begin starts a system that is not ours, on a kernel that knows nobody. skip says that it is not installed.
func (s *stage) begin(ctx context.Context, system string) (end func() error, skip string, err error) {
	t := s.base
	if need, ok := needs[system]; ok {
		if _, err := exec.LookPath(need.program); err != nil {
			return nil, fmt.Sprintf("no %s here: install it (apt install %s)", need.program, need.from), nil
		}
	}
	limits := generous
	if system == backlog {
		limits = frugal
	}
	for key, value := range limits {
		if err := t.ns.Sysctl(key, value); err != nil {
			return nil, "", err
		}
	}
	if err := errors.Join(t.ns.ForgetPeers(), s.near.ForgetPeers()); err != nil {
		return nil, "", err
	}
	t.child = system
	end = func() error { return s.Stop(system) }
	switch system {
	case haproxy:
		err = s.startHAProxy(t)
	case synproxy:
		end = func() error { return errors.Join(s.Stop(system), s.nft(ctx, t, "flush ruleset\n")) }
		err = errors.Join(s.nft(ctx, t, synproxyRules(t)), s.startPlain(t))
	default:
		err = s.startPlain(t)
	}
	if err == nil {
		err = s.serves(ctx, t)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("start %s: %w", system, err), end())
	}
	return end, "", nil
}

// startPlain starts the lab's plain proxy: a listener that passes on to the origin.
func (s *stage) startPlain(t *target) error {
	origin, _ := lab.BackOrigin.Port(lab.OriginWeb)
	return s.Run(t.ns, t.child, s.Lab(), "paper-proxy", "--role", "plain", "--forward", netip.AddrPortFrom(t.at, lab.WebPort).String()+"="+origin.String())
}

// startHAProxy starts Debian's haproxy with one thread, as one processor wants it, passing on TCP.
func (s *stage) startHAProxy(t *target) error {
	origin, _ := lab.BackOrigin.Port(lab.OriginWeb)
	p := s.Paths(t.child)
	text := fmt.Sprintf(`global
	maxconn 4000
	nbthread 1
defaults
	mode tcp
	timeout connect 5s
	timeout client 30s
	timeout server 30s
listen web
	bind %s backlog 4096
	server origin %s
`, netip.AddrPortFrom(t.at, lab.WebPort), origin)
	if err := os.WriteFile(p.Config, []byte(text), 0o600); err != nil {
		return err
	}
	return s.Run(t.ns, t.child, "haproxy", "-db", "-f", p.Config)
}

// synproxyRules are those of nftables' own documentation, before a listener on the same machine.
func synproxyRules(t *target) string {
	return fmt.Sprintf(`table ip edge {
	chain raw {
		type filter hook prerouting priority raw; policy accept;
		iifname %[1]q tcp dport %[2]d tcp flags syn notrack
	}
	chain in {
		type filter hook input priority filter; policy accept;
		iifname %[1]q tcp dport %[2]d ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
		ct state invalid drop
	}
}
`, t.cable.Proxy, lab.WebPort)
}

// nft changes the rules of an edge's namespace.
func (s *stage) nft(ctx context.Context, t *target, rules string) error {
	file := filepath.Join(s.Work(), "edge.nft")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		return err
	}
	if strings.Contains(rules, "synproxy") { // its manual asks for it: else the last ACK makes a connection of its own
		if err := t.ns.Sysctl("netfilter/nf_conntrack_tcp_loose", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	out, err := t.ns.Output(ctx, "nft", "-f", file)
	if err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// serves waits until a client gets an answer.
func (s *stage) serves(ctx context.Context, t *target) error {
	return fleet.Wait(ctx, 10*time.Second, t.child+" serves", s.Children(), func() (bool, error) {
		var all []Visit
		err := s.visitor.ask(ctx, "Connect", Plan{To: netip.AddrPortFrom(t.at, lab.WebPort), N: 1, Patience: time.Second}, &all)
		if err != nil || len(all) != 1 {
			return false, err
		}
		return all[0].Error == "", errors.New(all[0].Error)
	})
}
