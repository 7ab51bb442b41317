package paper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab/frame"
	"migrationsensor/examples/lab/kernel"
)

// tick is how long a read of the packet socket blocks before it looks whether it should end.
const tick = 100 * time.Millisecond

// attacked is the running P1 of the attacked phase.
type attacked struct {
	port *frame.Port  // read by frames; written under mu
	p2   *net.UDPConn // connected

	mu      sync.Mutex
	checker *checker
}

// runChecker answers for P1's address until ctx is done. It refuses to work outside the lab.
func runChecker(ctx context.Context, c Config, status io.Writer) (CheckerCounts, error) {
	if err := kernel.CheckInside(); err != nil {
		return CheckerCounts{}, err
	}
	port, err := frame.OpenPort(c.Toward, true)
	if err != nil {
		return CheckerCounts{}, err
	}
	defer port.Close()
	p2, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(c.Ratify))
	if err != nil {
		return CheckerCounts{}, err
	}
	defer p2.Close()
	a := &attacked{port: port, p2: p2, checker: newChecker(c, rand.Float64, [2]uint64{rand.Uint64(), rand.Uint64()})}
	if _, err := io.WriteString(status, "ready\n"); err != nil {
		return CheckerCounts{}, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.frames(ctx) })
	g.Go(func() error { return a.approvals(ctx) })
	err = g.Wait()
	lost, _ := port.Dropped()
	a.checker.counts.Lost = int(lost)
	return a.checker.counts, err
}

// frames reads what comes to P1's address.
func (a *attacked) frames(ctx context.Context) error {
	b := make([]byte, 65536)
	for ctx.Err() == nil {
		n, err := a.port.Receive(b, tick)
		if err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		if s, ok := parse(b[:n]); ok {
			a.handle(s)
		}
	}
	return nil
}

func (a *attacked) handle(s segment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch v, p, r := a.checker.handle(time.Now(), s); v {
	case answer:
		a.sendLocked(p)
	case ratify:
		if _, err := a.p2.Write(r.append(nil, kindRatify)); err != nil {
			a.checker.counts.Unsent++
		}
	case ignore:
	}
}

// approvals reads P2's answers, each of which lets a notification go out.
func (a *attacked) approvals(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = a.p2.Close() })()
	b := make([]byte, ratifyLen+1)
	for {
		n, err := a.p2.Read(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ECONNREFUSED): // nobody listens at P2: the client gets no notification
		case err != nil:
			return fmt.Errorf("approvals: %w", err)
		default:
			a.approve(b[:n])
		}
	}
}

func (a *attacked) approve(b []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := parseRatification(b, kindApproval)
	if !ok {
		a.checker.counts.Refused++
		return
	}
	if p, ok := a.checker.approved(r); ok {
		a.sendLocked(p)
	}
}

func (a *attacked) sendLocked(p frame.Packet) {
	p.SrcMAC, p.DstMAC = a.port.SrcMAC, a.port.DstMAC
	if n, err := a.port.Send([][]byte{p.Append(nil)}); n != 1 || err != nil {
		a.checker.counts.Unsent++
	}
}
