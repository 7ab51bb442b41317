package tables

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
	"migrationsensor/examples/lab/paper"
)

// stage is the lab's world with three systems in it: ours, the plain proxy and the paper's.
type stage struct {
	*fleet.Fleet
	assumed paper.Assumed
	keyFile string

	plainP1, plainP2          *kernel.Namespace
	paperP1, paperP2, paperP3 *kernel.Namespace
	paperAttacked             *kernel.Namespace
	sshd                      *sshd // nil where there is none
	noSSH                     string
	plainAt, paperAt, msAt    map[string]netip.Addr // by dest
	agents                    []agent
}

// agent is one of our clients.
type agent struct{ name, probe string }

// edge is how P1 is set where its times don't matter much.
func edge(p float64) fleet.Edge {
	return fleet.Edge{SYN: threshold, ICMP: threshold, UDP: threshold, Quiet: 5 * time.Second, Suspend: 5 * time.Second, P: p}
}

// newStage makes everything. What it returns must be closed, also with an error.
func newStage(ctx context.Context, r *run) (*stage, error) {
	o := r.opts
	s := &stage{assumed: r.assumed, agents: []agent{{"client", "warm"}, {"each", "each"}, {"fresh", "warm"}}}
	s.plainAt = map[string]netip.Addr{"p1": lab.PlainP1.V4, "p2": lab.PlainP2.V4}
	s.paperAt = map[string]netip.Addr{"p1": lab.PaperP1.V4, "p2": lab.PaperP2.V4}
	s.msAt = map[string]netip.Addr{"p1": lab.P1.V4, "p2": lab.P2.V4}
	var err error
	s.Fleet, err = fleet.New(ctx, fleet.Config{
		Bin: o.Bin, Lab: o.Lab, Logs: r.logs(), RTT: o.RTT, Loss: o.Loss, LinkRate: o.LinkRate, Seed: o.Seed,
		Nodes:    []fleet.Node{{Name: "p1", Kind: "entry"}, {Name: "p2", Kind: "entry"}, {Name: "p3", Kind: "hidden"}},
		Services: []fleet.Service{{Name: "web", Port: lab.WebPort, Origin: lab.OriginWeb}, {Name: "ssh", Port: lab.SSHPort, Origin: lab.OriginSSH}},
		Edge:     edge(1),
	}, r.progress.Say)
	if err != nil {
		return s, err
	}
	r.progress.Did(partWorld)
	if err := s.addProxies(ctx, r.progress.Say); err != nil {
		return s, err
	}
	r.progress.Did(partWorld)
	s.sshd, s.noSSH, err = newSSHD(ctx, s)
	return s, err
}

func (s *stage) close() error { return s.Fleet.Close() }

// addProxies makes the plain proxy and the paper's, as they are in peace.
func (s *stage) addProxies(ctx context.Context, say func(string, ...any)) (err error) {
	say("adding the plain proxy and the paper's, P1 and P2 of each")
	for _, p := range []struct {
		at    **kernel.Namespace
		proxy lab.Proxy
	}{
		{&s.plainP1, lab.Proxy{Name: "plain-p1", Public: lab.PlainP1, Back: lab.BackPlainP1, Limited: true}},
		{&s.plainP2, lab.Proxy{Name: "plain-p2", Public: lab.PlainP2, Back: lab.BackPlainP2, Limited: true}},
		{&s.paperP1, lab.Proxy{Name: "paper-p1", Public: lab.PaperP1, Back: lab.BackPaperP1}},
		{&s.paperP2, lab.Proxy{Name: "paper-p2", Public: lab.PaperP2, Back: lab.BackPaperP2}},
		{&s.paperP3, lab.Proxy{Name: "paper-p3", Public: lab.PaperP3, Back: lab.BackPaperP3}},
		{&s.paperAttacked, lab.Proxy{Name: "paper-dark", Public: lab.PaperAttacked, Back: lab.BackPaperAttacked, Dark: true}},
	} {
		if *p.at, err = s.World.AddProxy(p.proxy); err != nil {
			return err
		}
	}
	if err := s.makeKey(); err != nil {
		return err
	}
	ratify, _ := lab.BackPaperP3.Port(lab.RatifyPort)
	for _, p := range []struct {
		ns   *kernel.Namespace
		role paper.Role
		at   netip.Addr
		more []string
	}{
		{s.plainP1, paper.Plain, lab.PlainP1.V4, nil}, {s.plainP2, paper.Plain, lab.PlainP2.V4, nil},
		{s.paperP1, paper.P1, lab.PaperP1.V4, nil}, {s.paperP2, paper.P1, lab.PaperP2.V4, nil},
		{s.paperP3, paper.P2, lab.PaperP3.V4, []string{"--ratify", ratify.String()}},
	} {
		if err := s.proxy(ctx, p.ns, p.role, append(forwards(p.at), p.more...)...); err != nil {
			return err
		}
	}
	return nil
}

// forwards are a forwarder's two doors.
func forwards(at netip.Addr) (args []string) {
	for _, x := range []struct{ port, origin uint16 }{{lab.WebPort, lab.OriginWeb}, {lab.SSHPort, lab.OriginSSH}} {
		origin, _ := lab.BackOrigin.Port(x.origin)
		args = append(args, "--forward", netip.AddrPortFrom(at, x.port).String()+"="+origin.String())
	}
	return args
}

// makeKey makes the key that the paper's client and P1 share.
func (s *stage) makeKey() error {
	_, _ = rand.Read(s.assumed.Key[:]) // never fails
	s.keyFile = filepath.Join(s.Work(), "paper.key")
	return os.WriteFile(s.keyFile, []byte(hex.EncodeToString(s.assumed.Key[:])), 0o600)
}

// proxy starts one of the paper's programs and waits until clients may come.
func (s *stage) proxy(ctx context.Context, ns *kernel.Namespace, role paper.Role, args ...string) error {
	args = append([]string{"paper-proxy", "--role", string(role)}, args...)
	if err := s.Run(ns, ns.Name, s.Lab(), args...); err != nil {
		return err
	}
	return fleet.Wait(ctx, 10*time.Second, ns.Name+" is ready", s.Children(), func() (bool, error) {
		log, err := os.ReadFile(s.Paths(ns.Name).Log)
		_, last, _ := cutLast(string(log), "\n# ") // the log of its last start
		return strings.Contains(last, "\nready\n"), err
	})
}

// cutLast cuts at the last separator; without one, all is after it.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// attackPaper starts the paper's attacked P1 anew with a value of p.
func (s *stage) attackPaper(ctx context.Context, p string) error {
	if err := s.Stop(s.paperAttacked.Name); err != nil {
		return err
	}
	ratify, _ := lab.BackPaperP3.Port(lab.RatifyPort)
	return s.proxy(ctx, s.paperAttacked, paper.Checker, "--for", lab.PaperAttacked.V4.String(),
		"--ports", strconv.Itoa(lab.WebPort), "--p2", lab.PaperP3.V4.String(), "--ratify", ratify.String(), "--p", p,
		"--filter", strconv.FormatFloat(s.assumed.PreFilter, 'g', -1, 64), "--key-file", s.keyFile)
}

// startAgents starts our clients and waits until they are connected.
func (s *stage) startAgents(ctx context.Context) error {
	for _, a := range s.agents {
		if _, err := os.Stat(s.Paths(a.name).State); os.IsNotExist(err) {
			if err := s.AgentToken(ctx, a.name); err != nil {
				return err
			}
		}
		if err := s.StartAgent(a.name, a.probe); err != nil {
			return err
		}
	}
	for _, a := range s.agents {
		if err := s.WaitForAgent(ctx, a.name, 20*time.Second); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) stopAgents() error {
	var errs []error
	for _, a := range s.agents {
		errs = append(errs, s.Stop(a.name))
	}
	return errors.Join(errs...)
}

// number reads a value of p.
func number(p string) (float64, error) {
	v, err := strconv.ParseFloat(p, 64)
	if err != nil {
		return 0, fmt.Errorf("p %q: %w", p, err)
	}
	return v, nil
}
