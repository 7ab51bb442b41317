package firewall

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a kernel in memory.
type fake struct {
	mu           sync.Mutex
	admitted     map[netip.Addr]time.Time
	flows        map[Flow]bool
	defending    bool
	transactions int
	cost         time.Duration // of a transaction
	fail         error
}

func (k *fake) replace(p *plan) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.admitted, k.flows, k.defending = make(map[netip.Addr]time.Time), make(map[Flow]bool), p.defending
	for _, a := range p.admitted {
		k.admitted[a.addr] = a.until
	}
	for _, f := range p.flows {
		k.flows[f] = true
	}
	return true, k.fail
}

func (k *fake) gate(p *plan) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail == nil {
		k.defending = p.defending
	}
	return k.fail
}

func (k *fake) setFlows(old, now []Flow) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	for _, f := range old {
		delete(k.flows, f)
	}
	for _, f := range now {
		k.flows[f] = true
	}
	return nil
}

func (k *fake) admit(admit []admission, evict []netip.Addr) error {
	time.Sleep(k.cost)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.transactions++
	if k.fail != nil {
		return k.fail
	}
	for _, a := range evict {
		delete(k.admitted, a)
	}
	for _, a := range admit {
		k.admitted[a.addr] = a.until
	}
	return nil
}

func (k *fake) counters() (Stats, error)   { return Stats{Dropped: 1}, nil }
func (k *fake) intact(*plan) (bool, error) { return true, nil }
func (k *fake) remove() error              { return nil }
func (k *fake) close() error               { return nil }

// addr is the nth test address.
func addr(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}) }

func testConfig() Config {
	return Config{Interfaces: []string{"edge0"}, Addrs: []netip.Addr{addr(1)}, LinkPort: 7443}
}

// simulated runs the test with a fake kernel and fake time.
func simulated(t *testing.T, test func(t *testing.T, f *Firewall, k *fake)) {
	synctest.Test(t, func(t *testing.T) {
		f, err := New(testConfig())
		if err != nil {
			t.Fatal(err)
		}
		k := &fake{}
		f.dial = func() (kernel, error) { return k, nil }
		undo, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		test(t, f, k)
		if err := undo(); err != nil {
			t.Error(err)
		}
	})
}

// A knock is followed by its SYN after a millisecond: a lone admission must not wait for others.
func TestLoneAdmissionIsImmediate(t *testing.T) {
	simulated(t, func(t *testing.T, f *Firewall, k *fake) {
		time.Sleep(time.Hour)
		for i := range 3 {
			start := time.Now()
			if err := f.Admit(addr(i), time.Minute); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != 0 {
				t.Errorf("admission %d took %v", i, took)
			}
			time.Sleep(maxPause)
		}
	})
}

func TestAdmissionsShareTransactions(t *testing.T) {
	simulated(t, func(t *testing.T, f *Firewall, k *fake) {
		k.cost = 500 * time.Microsecond
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 900 {
			wg.Go(func() {
				if err := f.Admit(addr(i), time.Minute); err != nil {
					t.Error(err)
				}
				k.mu.Lock()
				defer k.mu.Unlock()
				if _, ok := k.admitted[addr(i)]; !ok {
					t.Errorf("Admit(%v) returned before the kernel knew", addr(i))
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); k.transactions > 2 || took > maxPause+2*k.cost {
			t.Errorf("900 at once: %d transactions in %v, want 2 within %v", k.transactions, took, maxPause+2*k.cost)
		}
	})
}

func TestAdmissionRules(t *testing.T) {
	simulated(t, func(t *testing.T, f *Firewall, k *fake) {
		start := time.Now()
		admit := func(n int, ttl time.Duration) {
			t.Helper()
			if err := f.Admit(addr(n), ttl); err != nil {
				t.Fatal(err)
			}
		}
		until := func(why string, n int, want time.Duration) {
			t.Helper()
			if got := k.admitted[addr(n)].Sub(start); got != want {
				t.Errorf("%s: until +%v, want +%v", why, got, want)
			}
		}
		admit(1, time.Minute)
		admit(1, time.Second)
		until("never shorter", 1, time.Minute)
		admit(1, time.Hour)
		until("extended", 1, time.Hour)
		admit(2, time.Second)
		time.Sleep(time.Second)
		if got := f.Admitted(); got != 1 {
			t.Errorf("after one has ended: %d admitted, want 1", got)
		}
		if err := f.Admit(netip.MustParseAddr("::ffff:198.18.0.7"), time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, ok := k.admitted[addr(7)]; !ok {
			t.Error("an IPv4 address inside IPv6 is the IPv4 address")
		}
		for _, bad := range []string{"0.0.0.0", "::", "224.0.0.1"} {
			if err := f.Admit(netip.MustParseAddr(bad), time.Minute); err == nil {
				t.Errorf("admitted %s", bad)
			}
		}
		if err := f.Admit(addr(3), 0); err == nil {
			t.Error("admitted for no time at all")
		}
		if err := f.Evict(addr(1)); err != nil || f.Admitted() != 1 {
			t.Errorf("evict: %v, %d left, want 1", err, f.Admitted())
		}
		if err := f.Evict(addr(99)); err != nil {
			t.Errorf("evict of one who is not in: %v", err)
		}
	})
}

// What the kernel refused is not believed to be in.
func TestFailedAdmission(t *testing.T) {
	simulated(t, func(t *testing.T, f *Firewall, k *fake) {
		k.fail = errors.New("table full")
		if err := f.Admit(addr(1), time.Minute); !errors.Is(err, k.fail) {
			t.Errorf("got %v, want %v", err, k.fail)
		}
		if n := f.Admitted(); n != 0 {
			t.Errorf("%d admitted after a failure", n)
		}
		if err := f.Defend(nil); !errors.Is(err, k.fail) || f.plan.defending {
			t.Errorf("defend: got %v, defending %v", err, f.plan.defending)
		}
		k.fail = nil
		if err := f.Admit(addr(1), time.Minute); err != nil || len(k.admitted) != 1 {
			t.Errorf("again: %v, %v in the kernel", err, k.admitted)
		}
	})
}

func TestOldestMakesRoom(t *testing.T) {
	simulated(t, func(t *testing.T, f *Firewall, k *fake) {
		f.table = newTable(10)
		for i := range 10 {
			if err := f.Admit(addr(i), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		// 0 is the youngest now; 10 and 11 push out 1 and 2.
		if err := errors.Join(f.Admit(addr(0), time.Hour), f.Admit(addr(10), time.Minute), f.Admit(addr(11), time.Minute)); err != nil {
			t.Fatal(err)
		}
		var want []netip.Addr
		for _, n := range []int{0, 3, 4, 5, 6, 7, 8, 9, 10, 11} {
			want = append(want, addr(n))
		}
		got := slices.SortedFunc(maps.Keys(k.admitted), netip.Addr.Compare)
		if !slices.Equal(got, want) {
			t.Errorf("in the kernel: %v, want %v", got, want)
		}
	})
}

func TestDefendAndRelax(t *testing.T) {
	simulated(t, func(t *testing.T, f *Firewall, k *fake) {
		at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
		a := Flow{at("198.18.0.9:1000"), at("198.18.0.1:7443")}
		mapped := Flow{at("[::ffff:198.18.0.9]:1000"), at("[::ffff:198.18.0.1]:7443")}
		mixed := Flow{at("198.18.0.9:1000"), at("[2001:2::1]:7443")}
		if err := f.Defend([]Flow{a, mapped, mixed, {}}); err != nil {
			t.Fatal(err)
		}
		if !k.defending || len(k.flows) != 1 || !k.flows[a] {
			t.Errorf("got defending %v, flows %v, want %v once", k.defending, k.flows, a)
		}
		if err := f.Relax(); err != nil || k.defending || len(k.flows) != 0 {
			t.Errorf("relaxed: %v, defending %v, flows %v", err, k.defending, k.flows)
		}
		s, err := f.Stats()
		if err != nil || s.Dropped != 1 {
			t.Errorf("stats: %+v, %v", s, err)
		}
		if err := f.Reapply(); err != nil {
			t.Fatal(err)
		}
		if s, err = f.Stats(); err != nil || s.Dropped != 2 {
			t.Errorf("stats after the table was replaced: %+v, %v, want the sum", s, err)
		}
	})
}

func TestConfigErrors(t *testing.T) {
	for _, tc := range []struct {
		rule string
		edit func(*Config)
		want string
	}{
		{"an interface is needed", func(c *Config) { c.Interfaces = nil }, "no public interface"},
		{"an address is needed", func(c *Config) { c.Addrs = nil }, "no public address"},
		{"a wildcard is no address", func(c *Config) { c.Addrs = []netip.Addr{netip.IPv4Unspecified()} }, "0.0.0.0 is no public address"},
		{"a link port is needed", func(c *Config) { c.LinkPort = 0 }, "no link port"},
		{"a service has another port than links", func(c *Config) {
			c.Services = []netip.AddrPort{netip.AddrPortFrom(addr(1), 7443)}
		}, "not the link port 7443"},
		{"a prefix is of one family", func(c *Config) {
			c.Allow = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:198.18.0.0"), 90)}
		}, "mixes IPv4 and IPv6"},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			cfg := testConfig()
			tc.edit(&cfg)
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
