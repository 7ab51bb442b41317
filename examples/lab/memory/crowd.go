package memory

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/netstack/memnet"
	"migrationsensor/proto"
	"migrationsensor/proxyd"
	fleetd "migrationsensor/proxyd/fleet"
)

// Crowd4 are the addresses of a crowd in memory.
var Crowd4 = netip.MustParsePrefix("198.18.128.0/18")

// perHost is how many of a crowd share a machine's stack: a machine for each would be most of the memory, and gVisor goes
// through all of an interface's addresses with each packet.
const perHost = 64

// CrowdNet makes the sockets of a crowd. It is an app.Net.
type CrowdNet struct {
	hosts []*memnet.Process
	dials atomic.Int64
}

// Dials is how many connections its agents have begun.
func (c *CrowdNet) Dials() int { return int(c.dials.Load()) }

// Crowd adds machines for so many agents, each with an address of its own out of Crowd4, and returns their network.
func (w *World) Crowd(agents int) (*CrowdNet, error) {
	access := memnet.Conditions{Delay: w.cfg.RTT / 2}
	c := &CrowdNet{}
	for a := Crowd4.Masked().Addr(); len(c.hosts)*perHost <= agents; {
		p := memnet.Port{Name: lab.Uplink, Segment: internet, Routes: memnet.Everywhere, Out: access, In: access}
		for range perHost {
			p.Addrs = append(p.Addrs, a)
			a = a.Next()
		}
		h, err := w.net.Add(fmt.Sprintf("crowd%d", len(c.hosts)), p)
		if err != nil {
			return nil, err
		}
		c.hosts = append(c.hosts, h.Process())
	}
	return c, nil
}

// at is the machine that has an address of the crowd.
func (c *CrowdNet) at(a netip.Addr) *memnet.Process {
	base, b := Crowd4.Masked().Addr().As4(), a.As4()
	n := int(b[2])<<8 + int(b[3]) - int(base[2])<<8 - int(base[3])
	return c.hosts[n/perHost]
}

// Dial connects.
func (c *CrowdNet) Dial(ctx context.Context, source netip.Addr, to netip.AddrPort) (net.Conn, error) {
	if to.Addr().Is4() { // the crowd has nothing else, and the others fail at once
		c.dials.Add(1)
	}
	conn, err := c.at(source).DialFrom(ctx, lab.Uplink, source, to)
	if err != nil {
		return nil, err // not a nil Conn in an interface
	}
	return conn, nil
}

// Knock sends a datagram.
func (c *CrowdNet) Knock(_ context.Context, source netip.Addr, to netip.AddrPort, b []byte) error {
	u, err := c.at(source).ListenPacket(lab.Uplink, netip.AddrPortFrom(source, 0))
	if err != nil {
		return err
	}
	defer u.Close()
	_, err = u.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

// Dir is a folder that ends with the world.
func (w *World) Dir() string { return w.dir }

// CrowdToken is the file of a token that any number of agents may use.
func (w *World) CrowdToken(context.Context) (file string, err error) {
	file = filepath.Join(w.dir, "crowd.token")
	t, err := fleetd.CreateToken(w.sign.State, fleetd.TokenRequest{Role: proto.RoleAgent, Life: time.Hour}, time.Now())
	if err != nil {
		return "", err
	}
	return file, os.WriteFile(file, []byte(t.String()), 0o600)
}

// Migrate sends the agents of a proxy to another, as `proxyd migrate` does, and watches them go for a while.
func (w *World) Migrate(ctx context.Context, from, to string) error {
	p, err := w.find(from)
	if err != nil {
		return err
	}
	var last proxyd.MoveProgress
	req := proxyd.MoveRequest{All: true, To: to, Wait: proxyd.Duration{Duration: 25 * time.Second}}
	if err := p.move(ctx, req, func(m proxyd.MoveProgress) { last = m }); err != nil {
		return err
	}
	if last.Gone < last.Agents {
		return fmt.Errorf("%d of %d agents have left %s", last.Gone, last.Agents, from)
	}
	return nil
}
