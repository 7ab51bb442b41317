package migrate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/kernel"
)

// newcomer makes an agent that has joined the fleet and does not run.
func newcomer(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	if _, err := os.Stat(f.Paths("fresh").State); err != nil {
		try(t, f.AgentToken(t.Context(), "fresh"))
	}
	enters(t, f)
	leaves(t, f)
	t.Cleanup(func() { try(t, f.Stop("fresh")) }) // if the test failed in between
}

// enters starts the newcomer and tells by which edge it got in.
func enters(t *testing.T, f *fleet.Fleet) fleet.AgentStatus {
	t.Helper()
	try(t, f.StartAgent("fresh", "warm"))
	try(t, f.WaitForAgent(t.Context(), "fresh", 20*time.Second))
	st, err := f.AgentStatus(t.Context(), "fresh")
	try(t, err)
	return st
}

// leaves ends the newcomer, which will know no more than the entries.
func leaves(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	try(t, f.Forget(t.Context(), "fresh"))
	try(t, f.Stop("fresh"))
}

// flooded has the second entry under attack, and P1 dead, for the time of a test. (It is not P1 that is attacked: for a minute
// nobody would send the client back there.)
func flooded(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	calm := fleet.Edge{Quiet: 5 * time.Second, Suspend: 30 * time.Second}
	alert := calm
	alert.SYN = 300
	at, _ := lab.E2.Port(lab.LinkPort)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	t.Cleanup(func() {
		stop()
		<-ended // it was interrupted
		if _, err := f.PID("p1"); err != nil {
			try(t, f.Revive("p1"))
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		try(t, f.Restart(ctx, "e2", calm))
	})
	err := f.Restart(t.Context(), "e2", alert)
	go func() {
		_, err := f.Attack(ctx, fleet.Attack{Kind: flood.SYN, Rate: 2000, Time: time.Minute, Target: at})
		ended <- err
	}()
	try(t, errors.Join(err, f.Kill("p1")))
	err = fleet.Wait(t.Context(), 10*time.Second, "the entry defends itself", f.Children(), func() (bool, error) {
		st, err := f.ProxyStatus(t.Context(), "e2")
		return st.State == "defending" || st.State == "suspended", errors.Join(err, fmt.Errorf("it is %q at %v", st.State, st.Rates))
	})
	try(t, err)
}

// wantSentOn fails the test unless the newcomer was sent on by the attacked entry's SYN Checker and let itself in by a knock.
func wantSentOn(t *testing.T, f *fleet.Fleet) fleet.AgentStatus {
	t.Helper()
	before := map[string]fleet.ProxyStatus{}
	for _, name := range []string{"e2", "p2", "p3"} {
		st, err := f.ProxyStatus(t.Context(), name)
		try(t, err)
		before[name] = st
	}
	st := enters(t, f)
	at := fleet.NameOf(st.Edge.Addr)
	if at != "p2" && at != "p3" || st.Counts.Transfers == 0 {
		t.Fatalf("it is at %+v after %d transfers", st.Edge, st.Counts.Transfers)
	}
	more := func(name, count string) uint64 {
		now, err := f.ProxyStatus(t.Context(), name)
		try(t, err)
		return now.Counts[count] - before[name].Counts[count]
	}
	if n := more("e2", "transfers"); n == 0 {
		t.Error("the SYN Checker has sent nobody on")
	}
	if n := more(at, "admitted"); n == 0 {
		t.Errorf("%s has admitted nobody by a proof of his own", at)
	}
	return st
}

// TestF57F58KnockAtTheNextEdge: while an entry is flooded a newcomer is sent on, and lets itself in at the next edge by its own knock:
// no word goes from one to the other; then that sees another address than it was told, IPv6 for IPv4.
func TestF57F58KnockAtTheNextEdge(t *testing.T) {
	f := newTest(t)
	newcomer(t, f)
	flooded(t, f)
	t.Run("F58 peer links cut", func(t *testing.T) {
		for _, spare := range []string{"p2", "p3"} {
			undo, err := f.CutPeers("e2", spare)
			t.Cleanup(func() { try(t, undo()) })
			try(t, err)
		}
		wantSentOn(t, f)
		leaves(t, f)
	})
	t.Run("F57 another address", func(t *testing.T) {
		fresh4, fresh6 := netip.PrefixFrom(lab.Fresh.V4, 32), netip.PrefixFrom(lab.Fresh.V6, 128)
		for _, way := range [][2]netip.Prefix{
			{fresh6, netip.PrefixFrom(lab.E2.V6, 128)}, {fresh4, netip.PrefixFrom(lab.P2.V4, 32)}, {fresh4, netip.PrefixFrom(lab.P3.V4, 32)},
		} {
			undo, err := f.World.Router.Drop(way[0], way[1])
			t.Cleanup(func() { try(t, undo()) })
			try(t, err)
		}
		if st := wantSentOn(t, f); !strings.HasPrefix(st.Edge.Addr, "[") {
			t.Errorf("it is at %s, want an IPv6 address", st.Edge.Addr)
		}
		leaves(t, f)
	})
}

// strangers are connections that say a byte now and then.
type strangers []int

// crowdOfStrangers gives the attacker the crowd's addresses, for good.
func crowdOfStrangers(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	try(t, f.World.Attacker.Own(lab.Crowd4))
	try(t, f.World.Router.Route(kernel.Route{To: lab.Crowd4, Via: lab.Attacker.V4, Dev: f.World.Attacker.Name}))
}

// connect begins n more, eight from each address, and has each say its first byte.
func (s *strangers) connect(f *fleet.Fleet, n int) error {
	const each = 8
	to := &unix.SockaddrInet4{Port: lab.LinkPort, Addr: lab.P1.V4.As4()}
	return f.World.Attacker.Do(func() error {
		for range n {
			i := len(*s)
			from := lab.Crowd4.Addr().As4()
			from[2], from[3] = from[2]+byte(i/each>>8), byte(i/each)
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("socket %d: %w", i, err)
			}
			*s = append(*s, fd)
			err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1), unix.Bind(fd, &unix.SockaddrInet4{Addr: from}))
			if err != nil {
				return fmt.Errorf("stranger %d: %w", i, err)
			}
			if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
				return fmt.Errorf("stranger %d: %w", i, err)
			}
		}
		return s.say((*s)[len(*s)-n:])
	})
}

// say has connections say one byte each, once they are there.
func (s *strangers) say(those []int) error {
	polls := make([]unix.PollFd, 0, len(those))
	for _, fd := range those {
		polls = append(polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT})
	}
	for len(polls) > 0 {
		const limit = 5000 // milliseconds: what the kernel drops comes again after one second, and three
		n, err := unix.Poll(polls, limit)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("%d strangers are not even connected", len(polls))
		}
		polls = slices.DeleteFunc(polls, func(p unix.PollFd) bool {
			if p.Revents != 0 {
				_, _ = unix.Write(int(p.Fd), []byte{'M'}) // it may be closed already
			}
			return p.Revents != 0
		})
	}
	return nil
}

func (s *strangers) close() {
	for _, fd := range *s {
		unix.Close(fd)
	}
}

// TestF46StrangersAtTheLinkPort connects 10,000 sockets to P1's link port that say one byte, and later another. The client's
// connection goes on, a newcomer gets in, P1 keeps few of them, and none for long.
func TestF46StrangersAtTheLinkPort(t *testing.T) {
	const many, batch, most = 10_000, 50, 1400 // sockets of P1: 1,024 strangers, and its own
	f := newTest(t)
	newcomer(t, f)
	crowdOfStrangers(t, f)
	try(t, f.Kill("e2")) // so that the newcomer has no other way
	pid, err := f.PID("p1")
	try(t, err)
	held := func() int {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		try(t, err)
		return len(fds)
	}
	client, origin := joined(t, f, far(t, f))
	before, highest := held(), 0
	var s strangers
	defer func() { s.close() }()
	connect := func(n int) {
		for ; n > 0; n -= batch {
			try(t, s.connect(f, batch))
			if len(s)%1000 == 0 {
				highest = max(highest, held())
				says(t, client, origin, "amid strangers")
				says(t, origin, client, "and back")
			}
		}
	}
	connect(many / 2)
	try(t, f.StartAgent("fresh", "warm"))
	entered := make(chan error, 1)
	go func() { entered <- f.WaitForAgent(t.Context(), "fresh", 20*time.Second) }()
	connect(many / 2)
	try(t, s.say(s))
	try(t, <-entered)
	if highest > most {
		t.Errorf("P1 had %d descriptors, want %d at most", highest, most)
	}
	if st, err := f.AgentStatus(t.Context(), "fresh"); err != nil || fleet.NameOf(st.Edge.Addr) != "p1" {
		t.Errorf("the newcomer is at %+v, %v", st.Edge, err)
	}
	if now, err := whereIs(t.Context(), f); err != nil || now != "p1" {
		t.Errorf("the client is at %q, %v", now, err)
	}
	leaves(t, f)
	err = fleet.Wait(t.Context(), 10*time.Second, "P1 has closed them all", f.Children(), func() (bool, error) {
		n := held()
		return n < before+100, fmt.Errorf("it has %d descriptors, had %d", n, before)
	})
	try(t, err)
	st, err := f.ProxyStatus(t.Context(), "p1")
	try(t, err)
	t.Logf("P1 had %d descriptors, %d at most; %d links, %d silenced", before, highest, st.Counts["links"], st.Counts["links_silenced"])
}
