package firewall

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An interface that went and came back is guarded again, with everybody who was admitted.
func TestReapply(t *testing.T) {
	e := families[0]
	w := newWorld(t)
	w.serve()
	f := w.firewall(config(true))
	if err := f.Admit(e.admitted, time.Minute); err != nil {
		t.Fatal(err)
	}
	w.wantIn("admitted", e.admitted, e.edge, linkPort)
	before, err := f.Stats()
	if err != nil {
		t.Fatal(err)
	}
	w.edge.must("remove interface", func() error {
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	w.edge.do(func() {
		if err := f.Reapply(); !errors.Is(err, ErrInterface) {
			t.Errorf("interface gone: got %v, want ErrInterface", err)
		}
	})
	w.plug()
	w.edge.must("reapply", f.Reapply)
	w.wantIn("still admitted", e.admitted, e.edge, linkPort)
	w.wantOut("dark", e.client, e.edge, linkPort)
	if s, err := f.Stats(); err != nil || s.Admitted <= before.Admitted {
		t.Errorf("counters begin again: got %+v after %+v, %v", s, before, err)
	}
}

// TestDarkBeforeAnybodyLooks: an interface that comes back is up before it can be guarded, and not by the name that it had. Until then
// nothing answers at the public addresses; what comes through other interfaces of the machine passes.
func TestDarkBeforeAnybodyLooks(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.edge.join(w.outside, "inside0")
	w.edge.up("inside0", "198.18.80.1/24", "2001:2:0:80::1/64")
	w.outside.up("inside0", "198.18.80.2/24", "2001:2:0:80::2/64")
	w.edge.waitUp("inside0")
	inside := []ends{
		{name: "IPv4", client: netip.MustParseAddr("198.18.80.2"), own: netip.MustParseAddr("198.18.80.1")},
		{name: "IPv6", client: netip.MustParseAddr("2001:2:0:80::2"), own: netip.MustParseAddr("2001:2:0:80::1")},
	}
	for _, e := range inside {
		w.waitAlive(w.outside, e.client, e.own)
	}
	cfg := config(true)
	cfg.Inside = []string{"inside0"}
	f := w.firewall(cfg)
	w.edge.must("remove interface", func() error {
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	w.plug()
	w.edge.must("rename interface", func() error {
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		return netlink.LinkSetName(l, "back0")
	})
	for i, e := range families {
		for _, port := range []uint16{linkPort, sshPort, noPort} {
			w.wantOut("not guarded yet, "+e.name, e.client, e.edge, port)
		}
		if !w.udpRefused(e, e.peer, e.edge, noPort) {
			t.Errorf("%s: a peer gets no answer", e.name)
		}
		if w.udpRefused(e, e.client, e.edge, noPort) {
			t.Errorf("%s: port unreachable betrays it", e.name)
		}
		w.wantIn("another interface, "+e.name, inside[i].client, inside[i].own, sshPort)
	}
	cfg.Interfaces = []string{"back0"}
	w.edge.must("update", func() error { return f.Update(cfg) })
	for _, e := range families {
		w.wantOut("guarded, "+e.name, e.client, e.edge, linkPort)
		if err := f.Admit(e.admitted, time.Minute); err != nil {
			t.Fatal(err)
		}
		w.wantIn("admitted, "+e.name, e.admitted, e.edge, linkPort)
	}
	w.outside.route("198.18.72.1/32", "198.18.80.1")
	w.outside.route("2001:2:0:72::1/128", "2001:2:0:80::1")
	for i, e := range families {
		w.wantIn("from the backplane, "+e.name, inside[i].client, e.edge, sshPort)
	}
}

func TestWatchGuardsWhatComesBack(t *testing.T) {
	e := families[0]
	w := newWorld(t)
	w.serve()
	f := w.firewall(config(true))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is of no use to others
		if err := unix.Setns(w.edge.fd, unix.CLONE_NEWNET); err != nil {
			ended <- err
			return
		}
		ended <- f.Watch(ctx)
	}()
	for range 2 {
		w.edge.must("remove interface", func() error {
			l, err := netlink.LinkByName(ifname)
			if err != nil {
				return err
			}
			// Without the table nothing but Watch can make the edge dark again.
			return errors.Join(removeTable(), netlink.LinkDel(l))
		})
		w.plug()
		for deadline := time.Now().Add(5 * time.Second); len(w.tables()) == 0; {
			if time.Now().After(deadline) {
				t.Fatal("not guarded 5 s after the interface came back")
			}
		}
		w.wantOut("dark", e.client, e.edge, linkPort)
		w.wantIn("a peer", e.peer, e.edge, linkPort)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("watch: %v", err)
	}
}

// removeTable is somebody else who meddles: it has a connection of its own.
func removeTable() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyNetdev, nftables.TableFamilyINet} {
		c.DelTable(c.AddTable(&nftables.Table{Family: family, Name: tableName}))
	}
	return c.Flush()
}

func TestOpenWithoutInterface(t *testing.T) {
	w := newWorld(t)
	for _, interfaces := range [][]string{{"nosuch0"}, {ifname, "nosuch0"}} {
		cfg := config(true)
		cfg.Interfaces = interfaces
		f, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.edge.do(func() {
			if _, err := f.Open(); !errors.Is(err, ErrInterface) {
				t.Errorf("%v: got %v, want ErrInterface", interfaces, err)
			}
		})
		if got := w.tables(); len(got) != 0 {
			t.Errorf("%v: left behind: %v", interfaces, got)
		}
		if err := f.Admit(families[0].client, time.Minute); !errors.Is(err, net.ErrClosed) {
			t.Errorf("admit before open: got %v, want net.ErrClosed", err)
		}
	}
}

// TestWatchPutsBackWhatIsFlushed: other programs that manage the packet filter take everything away, or our rules alone.
func TestWatchPutsBackWhatIsFlushed(t *testing.T) {
	for name, take := range map[string]func(c *nftables.Conn){
		"flush ruleset": (*nftables.Conn).FlushRuleset,
		"flush table": func(c *nftables.Conn) {
			c.FlushTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName})
		},
		"flush chain": func(c *nftables.Conn) {
			c.FlushChain(&nftables.Chain{Table: &nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName}, Name: chainDoor + "4"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := families[0]
			w := newWorld(t)
			w.serve()
			f := w.firewall(config(false))
			if err := errors.Join(f.Defend(nil), f.Admit(e.admitted, time.Minute)); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				runtime.LockOSThread() // never unlocked: the thread is of no use to others
				if err := unix.Setns(w.edge.fd, unix.CLONE_NEWNET); err != nil {
					ended <- err
					return
				}
				ended <- f.Watch(ctx)
			}()
			for range 2 {
				w.edge.must(name, func() error {
					c, err := nftables.New()
					if err == nil {
						take(c)
						err = c.Flush()
					}
					return err
				})
				w.eventually("the rules are back", func() bool {
					ok, err := f.intact()
					return ok && err == nil
				})
				w.wantOut("a stranger", e.client, e.edge, linkPort)
				w.wantIn("still admitted", e.admitted, e.edge, linkPort)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("watch: %v", err)
			}
		})
	}
}

func (f *Firewall) intact() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.k.intact(&f.plan)
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			w.t.Fatal("not seen: " + what)
		}
	}
}

// TestFloodsAreRationed: what is for no guarded port of a defending entry gets in as far as it costs little; what the machine asked
// for gets in beside it.
func TestFloodsAreRationed(t *testing.T) {
	each(t, func(t *testing.T, e ends) {
		w := newWorld(t)
		w.serve()
		f := w.firewall(config(false))
		if err := f.Defend(nil); err != nil {
			t.Fatal(err)
		}
		var asked, flood net.Conn
		w.edge.must("ask", func() (err error) {
			asked, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(e.edge, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(e.peer, 5353)))
			return err
		})
		defer asked.Close()
		cfg := f.plan.cfg
		cfg.Allow = nil // or the peer's answer would get in for that
		w.edge.must("update", func() error { return f.Update(cfg) })
		var far *net.UDPConn
		w.outside.must("flood", func() (err error) {
			if far, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(e.peer, 5353))); err != nil {
				return err
			}
			flood, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(e.client, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(e.edge, noPort)))
			return err
		})
		defer far.Close()
		defer flood.Close()
		floods := func() uint64 {
			s, err := f.Stats()
			if err != nil {
				t.Fatal(err)
			}
			return s.Floods
		}
		for deadline := time.Now().Add(5 * time.Second); floods() == 0; {
			for range 500 {
				_, _ = flood.Write([]byte("x")) // a refusal of the one before
			}
			if time.Now().After(deadline) {
				t.Fatal("a flood of UDP all got in")
			}
		}
		if _, err := asked.Write([]byte("name?")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 16)
		far.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, from, err := far.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		for range 500 {
			_, _ = flood.Write([]byte("x"))
		}
		if _, err := far.WriteToUDPAddrPort([]byte("this"), from); err != nil {
			t.Fatal(err)
		}
		asked.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := asked.Read(b); err != nil || string(b[:n]) != "this" {
			t.Errorf("what was asked for: got %q, %v", b[:n], err)
		}
		if s, err := f.Stats(); err != nil || s.Own != 1 {
			t.Errorf("stats %+v, %v; want one packet of our own asking", s, err)
		}
	})
}
