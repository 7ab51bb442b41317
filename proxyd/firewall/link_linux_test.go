package firewall

import (
	"context"
	"errors"
	"net"
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
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName})
	c.DelTable(t)
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
