package proxyd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"migrationsensor/detect"
	"migrationsensor/proxyd/firewall"
	"migrationsensor/proxyd/synchecker"
)

// followLine keeps the edge at its public interface, which may go and come back, under another name too: docker network disconnect
// and connect, a driver's reset. It is found by the public address, unless proxyd.toml names it. While it is gone the edge
// waits; it does not end.
func (e *edge) followLine(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	watch, end := context.WithCancel(ctx)
	defer end()
	watched := make(chan error, 1)
	go func() {
		watched <- e.host.Links(watch, func() {
			select {
			case changed <- struct{}{}:
			default: // it will look anyway
			}
		})
	}()
	f := follower{edge: e, guarded: e.line(), read: e.line()}
	for {
		f.gone = f.follow()
		var again <-chan time.Time // what failed may do without anything having come or gone
		if f.gone {
			again = time.After(lineAgain)
		}
		select {
		case <-ctx.Done():
			end()
			return <-watched
		case err := <-watched:
			return err
		case <-changed:
		case <-e.port.lost:
		case <-again:
		}
	}
}

// lineAgain is the pause between two looks while there is no public interface to serve at. Ours.
const lineAgain = time.Second

// follower is what followLine knows.
type follower struct {
	*edge
	guarded string // the interface that the firewall was told of and took
	read    string // the one that the port is at
	refused bool   // the firewall did not take the one that is there, and that was said
	gone    bool   // there is none to serve at, and that was said
}

// follow moves port, counter and firewall to where the interface is now, and says whether it is gone.
func (e *follower) follow() (gone bool) {
	was := e.gone
	before := e.line()
	if e.port.dead() {
		e.guarded, e.read = "", "" // the rules may have gone with the interface
	}
	name, err := e.findLine()
	if err != nil {
		if !was {
			e.log.Warn("the public interface is gone; waiting until one has the address again", "interface", before, "err", err)
		}
		return true
	}
	if name == e.guarded && name == e.read {
		if was { // the address alone was away
			e.log.Info("the public interface is back", "interface", name, "from", before)
		}
		return false
	}
	e.ifname.Store(&name) // the counter follows by itself
	if name != e.guarded {
		guard := e.firewallConfig(e.p.state.Doc())
		err := errors.Join(e.port.Gate(gateOf(guard)), e.firewall.Update(guard))
		switch gone := errors.Is(err, firewall.ErrInterface); {
		case gone && !was:
			e.log.Warn("the public interface is gone; waiting until it is back", "interface", name, "err", err)
		case err != nil && !gone && (!e.refused || name != before):
			e.log.Error("public interface is not guarded; trying again", "interface", name, "err", err)
			e.refused = true
		}
		if err != nil {
			return true
		}
		e.guarded, e.refused = name, false
	}
	if err := e.port.move(name); err != nil {
		if !was {
			e.log.Warn("the public interface is gone; waiting until it is back", "interface", name, "err", err)
		}
		return true
	}
	e.read = name
	e.log.Info("the public interface is back", "interface", name, "from", before)
	return false
}

// line is the name of the public interface, as last seen.
func (e *edge) line() string {
	if name := e.ifname.Load(); name != nil {
		return *name
	}
	return ""
}

func (e *edge) findLine() (string, error) {
	if name := e.p.cfg.Interface; name != "" {
		return name, nil
	}
	return e.host.Interface(e.self.Public[0])
}

// movingPort is the port of an interface that may go and come back: then move opens another one. Its Read waits meanwhile.
type movingPort struct {
	open  func(ifname string) (synchecker.Port, synchecker.Taken, error)
	lost  chan struct{}                 // 1-buffered: told when the port failed
	doors func() []synchecker.Admission // who is admitted now; nil: nobody

	now synchecker.Port // owned by the reader, but for what the port itself allows others

	mu     sync.Mutex
	armed  synchecker.Port  // what Arm and Lost speak to: now, or the one that comes after it
	taken  synchecker.Taken // of armed
	told   told
	mode   synchecker.Mode
	past   uint64 // lost by ports before
	failed bool
	closed bool
	next   chan synchecker.Port // 1-buffered: closed by Close
}

func newMovingPort(ifname string, open func(string) (synchecker.Port, synchecker.Taken, error)) (*movingPort, error) {
	p := &movingPort{open: open, lost: make(chan struct{}, 1), next: make(chan synchecker.Port, 1)}
	var err error
	if p.now, p.taken, err = open(ifname); err != nil {
		return nil, err
	}
	p.armed = p.now
	return p, nil
}

// move goes on at an interface. What the old port holds goes first: a packet program makes no room for another one, and the
// interface may be the same, under another name. Nobody answers meanwhile; the firewall has been told already.
func (p *movingPort) move(ifname string) error {
	if err := p.leave(); err != nil {
		return err
	}
	port, taken, err := p.open(ifname)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.Join(net.ErrClosed, port.Close())
	}
	if err := p.tellLocked(port); err != nil {
		return errors.Join(err, port.Close())
	}
	if err := port.Arm(p.mode); err != nil {
		return errors.Join(err, port.Close())
	}
	p.past += p.armed.Lost()
	if n, s, err := p.sumLocked(); err == nil {
		p.told.past, p.told.stats = n, s
	}
	p.armed, p.taken, p.failed = port, taken, false
	p.next <- port
	return nil
}

// leave closes the old port; its memory is freed by the reader.
func (p *movingPort) leave() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.failed = true
	select {
	case unread := <-p.next: // moved before the reader looked
		return errors.Join(unread.Close(), p.now.Close())
	default:
		return p.now.Close()
	}
}

func (p *movingPort) dead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// Read implements synchecker.Port.
func (p *movingPort) Read(buf []synchecker.Frame) (int, error) {
	for {
		n, err := p.now.Read(buf)
		if err == nil {
			return n, nil
		}
		p.fail(err)
		next, ok := <-p.next
		if !ok {
			return 0, net.ErrClosed
		}
		p.mu.Lock()
		p.now = next
		p.mu.Unlock()
	}
}

// fail notes that the port is of no use any more; one that was closed has been replaced already.
func (p *movingPort) fail(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	p.mu.Lock()
	p.failed = true
	p.mu.Unlock()
	select {
	case p.lost <- struct{}{}:
	default:
	}
}

// Write implements synchecker.Port. It is the reader's.
func (p *movingPort) Write(frames [][]byte) (int, error) { return p.now.Write(frames) }

// Arm implements synchecker.Port. A port that failed takes no mode; the next one does.
func (p *movingPort) Arm(m synchecker.Mode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.mode = m
	if err := p.armed.Arm(m); err != nil && !p.failed && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Sample implements synchecker.Sampler; a port that can't takes everything. It is the reader's.
func (p *movingPort) Sample(share float64) error {
	if s, ok := p.now.(synchecker.Sampler); ok {
		return s.Sample(share)
	}
	return nil
}

// Lost implements synchecker.Port.
func (p *movingPort) Lost() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.past + p.armed.Lost()
}

// Close implements synchecker.Port.
func (p *movingPort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	var errs []error
	select {
	case unread := <-p.next:
		errs = append(errs, unread.Close())
	default:
	}
	close(p.next)
	return errors.Join(append(errs, p.now.Close())...)
}

// movingCounter counts at the interface that the edge is at.
type movingCounter struct {
	open func(ifname string) (detect.Counter, error)
	at   func() string

	ifname string
	now    detect.Counter // nil: none could be opened at ifname
	past   detect.Counts  // of interfaces before
	last   detect.Counts  // of now
}

func newMovingCounter(at func() string, open func(string) (detect.Counter, error)) (*movingCounter, error) {
	c := &movingCounter{open: open, at: at, ifname: at()}
	var err error
	c.now, err = open(c.ifname)
	return c, err
}

// Read implements detect.Counter.
func (c *movingCounter) Read() (detect.Counts, error) {
	if name := c.at(); name != c.ifname || c.now == nil {
		if err := c.move(name); err != nil {
			return c.past, fmt.Errorf("%w (%w)", detect.ErrGone, err)
		}
	}
	counts, err := c.now.Read()
	if err == nil {
		c.last = counts
	}
	return c.sum(), err
}

func (c *movingCounter) sum() detect.Counts {
	sum := c.past
	for k, n := range c.last {
		sum[k] += n
	}
	return sum
}

func (c *movingCounter) move(name string) error {
	if c.now != nil {
		c.past, c.last = c.sum(), detect.Counts{}
		if err := c.now.Close(); err != nil {
			return err
		}
		c.now = nil
	}
	next, err := c.open(name)
	if err != nil {
		return err
	}
	c.now, c.ifname = next, name
	return nil
}

// Close implements detect.Counter.
func (c *movingCounter) Close() error {
	if c.now == nil {
		return nil
	}
	return c.now.Close()
}
