package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
)

// each runs the test for IPv4 and IPv6.
func each(t *testing.T, f func(t *testing.T, e ends)) {
	for _, e := range families {
		t.Run(e.name, func(t *testing.T) { f(t, e) })
	}
}

func TestEntryActiveDropsKnocksOnly(t *testing.T) {
	each(t, func(t *testing.T, e ends) {
		w := newWorld(t)
		w.serve()
		if !w.udpRefused(e, e.client, e.edge, linkPort) {
			t.Fatal("without a firewall UDP to the link port must be answered, or this test proves nothing")
		}
		f := w.firewall(config(false))
		for _, port := range []uint16{linkPort, dropPort, openPort, sshPort} {
			w.wantIn("an active entry serves everybody", e.client, e.edge, port)
		}
		w.wantRefused("a closed port answers", e.client, e.edge, noPort)
		if w.udpRefused(e, e.client, e.edge, linkPort) {
			t.Error("a knock was answered: port unreachable")
		}
		if !w.udpRefused(e, e.client, e.edge, noPort) {
			t.Error("UDP to another port: want port unreachable, it is not ours to drop")
		}
		w.wantStats(f, "one knock, nothing else", Stats{Knocks: 1})
	})
}

func (w *world) wantStats(f *Firewall, why string, want Stats) {
	w.t.Helper()
	got, err := f.Stats()
	if err != nil {
		w.t.Fatal(err)
	}
	got.Transactions = 0
	if got != want {
		w.t.Errorf("%s: got %+v, want %+v", why, got, want)
	}
}

// The rows of "which door is open" for an entry that defends.
func TestEntryDefending(t *testing.T) {
	each(t, func(t *testing.T, e ends) {
		w := newWorld(t)
		w.serve()
		f := w.firewall(config(false))
		link := w.wantIn("peace", e.client, e.edge, linkPort)
		plain := w.wantIn("peace", e.client, e.edge, dropPort)
		other := w.wantIn("peace", e.client, e.edge, linkPort)
		if err := f.Defend([]Flow{flow(link), flow(plain)}); err != nil {
			t.Fatal(err)
		}
		w.wantAlive("a live link goes on", link)
		w.wantAlive("a live plain flow goes on", plain)
		w.wantStalled("a flow that was not named is dropped", other)
		w.wantOut("a stranger at the link port", e.client, e.edge, linkPort)
		w.wantOut("a new plain client, plain = drop", e.client, e.edge, dropPort)
		w.wantIn("a new plain client, plain = admit", e.client, e.edge, openPort)
		w.wantIn("a new plain client, plain = cookie", e.client, e.edge, cookiePort)
		w.wantIn("a port that is not ours", e.client, e.edge, sshPort)
		w.wantRefused("a closed port that is not ours", e.client, e.edge, noPort)
		w.wantIn("a peer at the link port", e.peer, e.edge, linkPort)
		w.wantIn("a peer at a service port", e.peer, e.edge, dropPort)
		if w.udpRefused(e, e.client, e.edge, linkPort) {
			t.Error("a knock was answered: port unreachable")
		}

		if err := f.Admit(e.admitted, time.Minute); err != nil {
			t.Fatal(err)
		}
		in := w.wantIn("an admitted address at the link port", e.admitted, e.edge, linkPort)
		w.wantOut("an admitted address at a service port", e.admitted, e.edge, dropPort)
		w.wantOut("another address is not admitted with it", e.client, e.edge, linkPort)
		if err := f.Evict(e.admitted); err != nil {
			t.Fatal(err)
		}
		w.wantStalled("evicted", in)

		if err := f.SetFlows([]Flow{flow(plain), flow(other)}); err != nil {
			t.Fatal(err)
		}
		w.wantAlive("a flow that stays", plain)
		w.wantAlive("a flow that was added", other)
		w.wantStalled("a flow that was taken out", link)

		s, err := f.Stats()
		if err != nil || s.Dropped == 0 || s.Flows == 0 || s.Plain == 0 || s.Allowed == 0 || s.Admitted == 0 || s.Own != 0 {
			t.Errorf("counters: %+v, %v", s, err)
		}
		if err := f.Relax(); err != nil {
			t.Fatal(err)
		}
		w.wantIn("after the attack", e.client, e.edge, linkPort)
		w.wantIn("after the attack", e.client, e.edge, dropPort)
		w.wantAlive("a link that was dropped for a while", link)
	})
}

func TestHiddenLetsInTheAdmitted(t *testing.T) {
	each(t, func(t *testing.T, e ends) {
		w := newWorld(t)
		w.serve()
		f := w.firewall(config(true))
		for _, port := range []uint16{linkPort, dropPort, openPort, sshPort, noPort} {
			w.wantOut(fmt.Sprint("dark at port ", port), e.client, e.edge, port)
			w.wantOut(fmt.Sprint("dark at its interface's address, port ", port), e.client, e.own, port)
		}
		w.wantIn("a peer", e.peer, e.edge, linkPort)
		w.wantIn("management", e.peer, e.own, sshPort)
		if err := f.Admit(e.admitted, time.Minute); err != nil {
			t.Fatal(err)
		}
		c := w.wantIn("admitted, at the link port", e.admitted, e.edge, linkPort)
		for _, port := range []uint16{dropPort, openPort, sshPort, noPort} {
			w.wantOut(fmt.Sprint("admitted, at port ", port), e.admitted, e.edge, port)
		}
		w.wantOut("admitted, at another address of the edge", e.admitted, e.own, linkPort)
		w.wantOut("a stranger", e.client, e.edge, linkPort)

		if err := f.Defend([]Flow{flow(c)}); err != nil {
			t.Fatal(err)
		}
		if err := f.Evict(e.admitted); err != nil {
			t.Fatal(err)
		}
		w.wantAlive("a live flow, defending", c)
		w.wantOut("evicted", e.admitted, e.edge, linkPort)
		if err := f.Relax(); err != nil {
			t.Fatal(err)
		}
		w.wantStalled("neither admitted nor a named flow any more", c)
		w.wantOut("dark after the attack as well", e.client, e.edge, linkPort)
	})
}

// What the hidden edge begins itself is answered to it, and to nobody else.
func TestHiddenHearsReplies(t *testing.T) {
	each(t, func(t *testing.T, e ends) {
		w := newWorld(t)
		w.serve()
		w.outside.must("origin", func() error { return echo(t, ":80") })
		f := w.firewall(config(true))
		origin := netip.AddrPortFrom(e.client, 80)
		var c net.Conn
		w.edge.must("dial the origin", func() (err error) {
			c, err = net.DialTimeout("tcp", origin.String(), 5*time.Second)
			return err
		})
		defer c.Close()
		w.wantAlive("a connection of the edge's own", c)
		w.wantOut("the origin may answer, not ask", e.client, e.edge, sshPort)
		if s, err := f.Stats(); err != nil || s.Own == 0 {
			t.Errorf("own replies: got %+v, %v", s, err)
		}
		w.edge.must("write the table anew", func() error { return f.Update(config(true)) })
		w.wantAlive("it goes on when the table is written anew", c)
		var server net.PacketConn
		w.outside.must("UDP server", func() (err error) {
			server, err = net.ListenPacket("udp", netip.AddrPortFrom(e.client, 53).String())
			return err
		})
		defer server.Close()
		go func() {
			b := make([]byte, 16)
			n, from, err := server.ReadFrom(b)
			if err == nil {
				server.WriteTo(b[:n], from)
			}
		}()
		var q net.Conn
		w.edge.must("ask", func() (err error) {
			q, err = net.Dial("udp", server.LocalAddr().String())
			return err
		})
		defer q.Close()
		w.wantAlive("a question over UDP", q)
	})
}

func (w *world) elements(set string) (out []nftables.SetElement) {
	w.t.Helper()
	w.edge.must("list "+set, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		t := &nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName}
		s, err := c.GetSetByName(t, set)
		if err != nil {
			return err
		}
		out, err = c.GetSetElements(s)
		return err
	})
	return out
}

func (w *world) tables() (names []string) {
	w.t.Helper()
	w.edge.must("list tables", func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		ts, err := c.ListTables()
		for _, t := range ts {
			names = append(names, t.Name)
		}
		return err
	})
	return names
}

func TestAdmissionEndsAndIsExtended(t *testing.T) {
	e := families[0]
	w := newWorld(t)
	w.serve()
	f := w.firewall(config(true))
	if err := errors.Join(f.Admit(e.admitted, 200*time.Millisecond), f.Admit(e.client, 200*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n := f.Admitted(); n != 2 {
		t.Errorf("admitted: got %d, want 2", n)
	}
	if err := f.Admit(e.client, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := f.Admit(e.client, time.Second); err != nil { // never shorter
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); len(w.elements("admitted4")) > 1; {
		if time.Now().After(deadline) {
			t.Fatal("the kernel keeps an admission that has ended")
		}
	}
	left := w.elements("admitted4")
	if len(left) != 1 || netip.AddrFrom4([4]byte(left[0].Key)) != e.client || left[0].Expires < 50*time.Second {
		t.Errorf("in the kernel: got %+v, want %v for a minute", left, e.client)
	}
	w.wantOut("an admission that ended", e.admitted, e.edge, linkPort)
	w.wantIn("an admission that was extended", e.client, e.edge, linkPort)
	if n := f.Admitted(); n != 1 {
		t.Errorf("admitted: got %d, want 1", n)
	}
}

// Many at once: all are in the kernel when their call returns, in few transactions.
func TestManyAdmissions(t *testing.T) {
	const n = 3000
	w := newWorld(t)
	f := w.firewall(config(true))
	var wg sync.WaitGroup
	base := netip.MustParseAddr("2001:2:0:99::").As16()
	for i := range n {
		wg.Go(func() {
			a := base
			a[14], a[15] = byte(i>>8), byte(i)
			if err := f.Admit(netip.AddrFrom16(a), time.Minute); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := len(w.elements("admitted6")); got != n {
		t.Errorf("in the kernel: got %d, want %d", got, n)
	}
	s, err := f.Stats()
	if err != nil || s.Transactions > n/4 {
		t.Errorf("got %d transactions for %d admissions, %v", s.Transactions, n, err)
	}
}

// A killed process leaves its table; the next one repairs.
func TestOpenReplacesStaleTable(t *testing.T) {
	e := families[0]
	w := newWorld(t)
	w.serve()
	killed, err := New(config(false))
	if err != nil {
		t.Fatal(err)
	}
	w.edge.must("open", func() error { _, err := killed.Open(); return err })
	if err := killed.Defend(nil); err != nil {
		t.Fatal(err)
	}
	if err := killed.k.close(); err != nil { // as SIGKILL: the socket goes, the table stays
		t.Fatal(err)
	}
	killed.batch.stop()
	w.wantOut("the stale table still drops", e.client, e.edge, linkPort)

	f := w.firewall(config(false))
	w.wantIn("repaired", e.client, e.edge, linkPort)
	if got := w.tables(); len(got) != 1 {
		t.Errorf("tables: got %v, want one", got)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Errorf("close twice: %v", err)
	}
	if got := w.tables(); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	for what, err := range map[string]error{
		"Admit": f.Admit(e.client, time.Minute), "Evict": f.Evict(e.client), "Defend": f.Defend(nil),
		"Relax": f.Relax(), "SetFlows": f.SetFlows(nil), "Reapply": f.Reapply(),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: got %v, want net.ErrClosed", what, err)
		}
	}
}

func TestUpdateKeepsWhoIsIn(t *testing.T) {
	e := families[0]
	w := newWorld(t)
	w.serve()
	cfg := config(false)
	f := w.firewall(cfg)
	c := w.wantIn("peace", e.client, e.edge, linkPort)
	if err := errors.Join(f.Admit(e.admitted, time.Minute), f.Defend([]Flow{flow(c)})); err != nil {
		t.Fatal(err)
	}
	w.wantIn("not a service yet", e.client, e.edge, sshPort)
	cfg.Services = append(cfg.Services, netip.AddrPortFrom(netip.IPv4Unspecified(), sshPort))
	cfg.Allow = nil
	w.edge.must("update", func() error { return f.Update(cfg) })
	w.wantOut("a service now, on each of our addresses", e.client, e.edge, sshPort)
	w.wantOut("a peer no more", e.peer, e.edge, linkPort)
	w.wantIn("still admitted", e.admitted, e.edge, linkPort)
	w.wantAlive("still a live flow", c)
}

// TestF36FullAllowList: with as many doors open as there may be, the next one closes the oldest, which is counted and told; its
// live links go on, and it gets in again when it knocks. Whom the kernel does not take is not believed to be in.
func TestF36FullAllowList(t *testing.T) {
	each(t, func(t *testing.T, e ends) {
		const most = 3
		w := newWorld(t)
		w.serve()
		cfg := config(true)
		var evicted []netip.Addr // guarded by f.mu
		cfg.Evicted = func(a []netip.Addr) { evicted = append(evicted, a...) }
		f := w.firewall(cfg)
		f.table.max = most
		admit := func(a netip.Addr) {
			t.Helper()
			if err := f.Admit(a, time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		admit(e.admitted)
		link := w.wantIn("the first", e.admitted, e.edge, linkPort)
		admit(e.client)
		w.wantIn("the second", e.client, e.edge, linkPort)
		other := e.peer.Next()
		for range most - 1 { // the first goes
			admit(other)
			other = other.Next()
		}
		w.wantOut("the oldest, which knows nothing of it", e.admitted, e.edge, linkPort)
		w.wantIn("the second is still there", e.client, e.edge, linkPort)
		if err := f.Defend([]Flow{flow(link)}); err != nil {
			t.Fatal(err)
		}
		w.wantAlive("its live link while the edge defends", link)
		admit(e.admitted) // as its knock does; the second goes
		w.wantIn("the first again", e.admitted, e.edge, linkPort)
		w.wantOut("the second", e.client, e.edge, linkPort)
		set := "admitted4"
		if e.client.Is6() {
			set = "admitted6"
		}
		if n := len(w.elements(set)); n != most || f.Admitted() != most {
			t.Errorf("%d doors in the kernel, %d known, want %d", n, f.Admitted(), most)
		}
		if s, err := f.Stats(); err != nil || s.Evicted != 2 || !slices.Equal(evicted, []netip.Addr{e.admitted, e.client}) {
			t.Errorf("%d evicted, %v, %v; want two, the oldest first", s.Evicted, evicted, err)
		}

		w.edge.must("meddle", removeTable)
		if err := f.Admit(e.client, time.Minute); err == nil || f.Admitted() != most {
			t.Errorf("admitted without a table: %v, %d known", err, f.Admitted())
		}
		w.edge.must("reapply", f.Reapply)
		w.wantIn("those that were in, when the table is back", e.admitted, e.edge, linkPort)
		w.wantOut("whom the kernel did not take", e.client, e.edge, linkPort)
	})
}
