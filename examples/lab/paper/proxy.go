package paper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Role is what a proxy of the paper is at a time. Each is a process of its own here: the lab routes
// P1's address to the one or the other.
type Role string

// The roles.
const (
	Plain   Role = "plain"   // a TCP forwarder, nothing of the paper: the bench's plain proxy
	P1      Role = "p1"      // P1 in peace: the same forwarder
	Checker Role = "checker" // P1 under attack: SYN Checker and Informer
	P2      Role = "p2"      // a forwarder for ratified clients only
)

// Roles are all of them.
var Roles = []Role{Plain, P1, Checker, P2}

// Forward is one door of a forwarder.
type Forward struct{ Listen, Origin netip.AddrPort }

// ParseForward reads LISTEN=ORIGIN, both ADDRESS:PORT.
func ParseForward(s string) (f Forward, err error) {
	listen, origin, ok := strings.Cut(s, "=")
	if !ok {
		return f, fmt.Errorf("%q: write LISTEN=ORIGIN, both ADDRESS:PORT", s)
	}
	if f.Listen, err = netip.ParseAddrPort(listen); err != nil {
		return f, fmt.Errorf("%q: %w", s, err)
	}
	if f.Origin, err = netip.ParseAddrPort(origin); err != nil {
		return f, fmt.Errorf("%q: %w", s, err)
	}
	return f, nil
}

// Config describes one proxy.
type Config struct {
	Role    Role
	Assumed Assumed
	Ratify  netip.AddrPort // on the backplane: P2 listens there, the checker sends there

	Forwards []Forward // plain, p1, p2

	// The checker's.
	Address netip.Addr // P1's, which this namespace's kernel must not own
	Ports   []uint16   // P1's services
	P2      netip.Addr // clients are sent there, to the port that they asked P1 for
	P       float64    // the paper's p: this share of the SYNs that pass the firewall is answered
	Toward  netip.Addr // an address on the way to the clients: answers leave by its interface and next hop
}

// Check refuses what can't work.
func (c Config) Check() error {
	switch c.Role {
	case Plain, P1, P2:
		if len(c.Forwards) == 0 {
			return fmt.Errorf("role %s: name at least one LISTEN=ORIGIN", c.Role)
		}
		if c.Role == P2 && (!c.Ratify.IsValid() || c.Assumed.RatifiedMax < 1 || c.Assumed.RatifiedFor <= 0) {
			return errors.New("role p2: name the backplane's address for ratifications, and for how many clients and how long they hold")
		}
		return nil
	case Checker:
		if !c.Address.Is4() || !c.P2.Is4() || !c.Toward.Is4() || len(c.Ports) == 0 || !c.Ratify.IsValid() {
			return errors.New("role checker: name P1's address and ports, P2's address, an address towards the clients and P2's for ratifications, all IPv4")
		}
		if !(c.P >= 0 && c.P <= 1) {
			return fmt.Errorf("p = %g: use 0 to 1", c.P)
		}
		if c.Assumed.PreFilter < 0 || c.Assumed.PreFilter > 0 && c.Assumed.Burst < 1 {
			return errors.New("the firewall lets 0 (no firewall) or more SYN/s pass, and at least one at once")
		}
		return nil
	}
	return fmt.Errorf("role %q: use one of %v", c.Role, Roles)
}

// Counts are what a proxy did.
type Counts struct {
	Role      Role
	Forwarder *ForwarderCounts `json:",omitempty"` // plain, p1, p2
	Admission *AdmissionCounts `json:",omitempty"` // p2
	Checker   *CheckerCounts   `json:",omitempty"` // checker
}

// Run is the proxy until ctx is done; it writes "ready" and a newline to status once clients may
// come. It returns after everything that it started has ended.
func Run(ctx context.Context, c Config, status io.Writer) (Counts, error) {
	if err := c.Check(); err != nil {
		return Counts{}, err
	}
	if c.Role == Checker {
		n, err := runChecker(ctx, c, status)
		return Counts{Role: c.Role, Checker: &n}, err
	}
	return runForwarder(ctx, c, status)
}

// runForwarder opens everything, then runs it.
func runForwarder(ctx context.Context, c Config, status io.Writer) (Counts, error) {
	out, f := Counts{Role: c.Role}, newForwarder()
	var parts []func(context.Context) error
	if c.Role == P2 {
		r, err := listenRatify(c)
		if err != nil {
			return out, err
		}
		defer r.conn.Close()
		f.admit, out.Admission = r.admits, &r.counts
		parts = append(parts, r.run)
	}
	for _, d := range c.Forwards {
		l, err := listen(d.Listen)
		if err != nil {
			return out, err
		}
		defer l.Close()
		parts = append(parts, func(ctx context.Context) error { return f.accept(ctx, l, d.Origin) })
	}
	if _, err := io.WriteString(status, "ready\n"); err != nil {
		return out, err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range parts {
		g.Go(func() error { return run(ctx) })
	}
	err := g.Wait()
	f.conns.Wait()
	out.Forwarder = &f.counts
	return out, err
}
