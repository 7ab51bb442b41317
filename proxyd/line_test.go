package proxyd

import (
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"

	"migrationsensor/detect"
	"migrationsensor/proxyd/synchecker"
)

// vanishing is the port of an interface; break takes that away.
type vanishing struct {
	frames chan string
	end    chan error
	mode   synchecker.Mode
	lost   uint64
	freed  bool
}

func newVanishing() *vanishing {
	return &vanishing{frames: make(chan string), end: make(chan error, 2)}
}

var errNoDevice = errors.New("no such device")

func (p *vanishing) Read(buf []synchecker.Frame) (int, error) {
	select {
	case f := <-p.frames:
		buf[0].Data = []byte(f)
		return 1, nil
	case err := <-p.end:
		p.freed = true
		return 0, err
	}
}

func (p *vanishing) Write(frames [][]byte) (int, error) { return len(frames), nil }
func (p *vanishing) Lost() uint64                       { return p.lost }
func (p *vanishing) Arm(m synchecker.Mode) error {
	if p.freed {
		return net.ErrClosed
	}
	p.mode = m
	return nil
}

func (p *vanishing) Close() error {
	select {
	case p.end <- net.ErrClosed:
	default: // once more
	}
	return nil
}

// TestPortMovesToAnotherInterface: what reads and writes frames sees neither the end of one interface nor the begin of another.
func TestPortMovesToAnotherInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ports := map[string]*vanishing{"eth0": newVanishing(), "eth1": newVanishing(), "eth2": newVanishing()}
		p, err := newMovingPort("eth0", func(name string) (synchecker.Port, synchecker.Taken, error) {
			if ports[name] == nil {
				return nil, synchecker.Taken{}, errNoDevice
			}
			return ports[name], synchecker.Taken{Path: synchecker.Path(name)}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string)
		go func() {
			defer close(got)
			buf := make([]synchecker.Frame, 1)
			for {
				if _, err := p.Read(buf); err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("the end is %v, want net.ErrClosed", err)
					}
					return
				}
				got <- string(buf[0].Data)
			}
		}()
		want := func(at string) {
			t.Helper()
			ports[at].frames <- at
			if f := <-got; f != at {
				t.Errorf("read %q, want what came at %s", f, at)
			}
		}
		want("eth0")
		if err := p.Arm(synchecker.Defend); err != nil {
			t.Error(err)
		}
		ports["eth0"].lost = 3
		ports["eth0"].end <- errNoDevice
		<-p.lost
		if !p.dead() {
			t.Error("an interface is gone, and its port is not taken for dead")
		}
		if err := p.Arm(synchecker.Dark); err != nil {
			t.Errorf("a mode while there is no interface: %v, want that the next one takes it", err)
		}
		if err := p.move("nosuch"); !errors.Is(err, errNoDevice) {
			t.Errorf("move to nowhere: %v", err)
		}
		if err := p.move("eth1"); err != nil {
			t.Fatal(err)
		}
		want("eth1")
		if p.dead() || ports["eth1"].mode != synchecker.Dark {
			t.Errorf("dead %v, mode %v, want the one that was asked for meanwhile", p.dead(), ports["eth1"].mode)
		}
		if err := p.move("eth2"); err != nil { // renamed: the old one lives
			t.Fatal(err)
		}
		want("eth2")
		if !ports["eth1"].freed || p.Lost() != 3 {
			t.Errorf("the old port was freed: %v; lost %d, want 3", ports["eth1"].freed, p.Lost())
		}
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
		if f, ok := <-got; ok {
			t.Errorf("read %q after the end", f)
		}
		if err := p.move("eth0"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("move after the end: %v, want net.ErrClosed", err)
		}
	})
}

// TestCloseWhileNoInterfaceIsThere frees a reader that waits for one.
func TestCloseWhileNoInterfaceIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := newVanishing()
		p, err := newMovingPort("eth0", func(string) (synchecker.Port, synchecker.Taken, error) { return gone, synchecker.Taken{}, nil })
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := p.Read(make([]synchecker.Frame, 1))
			ended <- err
		}()
		gone.end <- errNoDevice
		synctest.Wait()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
	})
}

// TestLineIsGuardedBeforeItServes: what firewall and packet socket refuse is asked for again, though nothing comes or goes
// meanwhile, and nobody reads packets at an interface that is not guarded.
func TestLineIsGuardedBeforeItServes(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Interface = "" })
	h := w.hosts["p2"]
	var changed func()
	w.eventually("it follows its interface", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		changed = h.links
		return changed != nil
	})
	h.fw.mu.Lock()
	h.fw.refuse = 2
	h.fw.mu.Unlock()
	h.mu.Lock()
	h.moved, h.full = "eth7", 1
	h.mu.Unlock()
	changed()
	w.eventually("it serves at the new interface", func() bool {
		h.mu.Lock()
		ports := slices.Clone(h.ports)
		h.mu.Unlock()
		h.fw.mu.Lock()
		defer h.fw.mu.Unlock()
		guarded := slices.Equal(h.fw.guards, []string{"eth7"})
		if slices.Contains(ports, "eth7") && !guarded {
			t.Fatalf("it reads packets at eth7, and guards %v", h.fw.guards)
		}
		return guarded && slices.Equal(ports, []string{"backplane0", "eth7"})
	})
}

// numbers is a counter that has counted so many of each.
type numbers struct {
	n      uint64
	closed bool
}

func (c *numbers) Read() (out detect.Counts, err error) {
	for k := range out {
		out[k] = c.n
	}
	return out, nil
}

func (c *numbers) Close() error { c.closed = true; return nil }

// TestCounterMovesAndNeverFalls: the numbers of a new interface begin at 0, what is read does not.
func TestCounterMovesAndNeverFalls(t *testing.T) {
	all, at := map[string]*numbers{"eth0": {n: 10}, "eth1": {n: 1}}, "eth0"
	c, err := newMovingCounter(func() string { return at }, func(name string) (detect.Counter, error) {
		if all[name] == nil {
			return nil, errNoDevice
		}
		return all[name], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(want uint64) {
		t.Helper()
		if got, err := c.Read(); err != nil || got[detect.SYN] != want {
			t.Errorf("read %v, %v, want %d", got, err, want)
		}
	}
	read(10)
	all["eth0"].n = 15
	read(15)
	at = "eth9"
	if _, err := c.Read(); !errors.Is(err, detect.ErrGone) || !all["eth0"].closed {
		t.Errorf("read where there is none: %v, want ErrGone; the old one closed: %v", err, all["eth0"].closed)
	}
	at = "eth1"
	read(16)
	all["eth1"].n = 4
	read(19)
	if err := c.Close(); err != nil || !all["eth1"].closed {
		t.Errorf("close: %v", err)
	}
}
