package flood

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/frame"
	"migrationsensor/examples/lab/kernel"
)

var noSandbox error

func TestMain(m *testing.M) {
	noSandbox = kernel.Enter()
	os.Exit(m.Run())
}

func TestRefusesOutsideTheLab(t *testing.T) {
	if _, err := Run(t.Context(), good()); !errors.Is(err, kernel.ErrOutside) {
		t.Errorf("got %v, want ErrOutside: this thread is in no namespace of the lab", err)
	}
}

// TestEveryPacketArrivesAsAsked floods P1 from the attacker and counts at P1's interface.
func TestEveryPacketArrivesAsAsked(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	w, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	v4, v6 := lab.P1.Port(lab.WebPort)
	fixed := netip.MustParsePrefix("198.19.7.7/32")
	for name, c := range map[string]Config{
		"syn, random":  {Kind: SYN, Target: v4, Sources: lab.FloodSources4, Rate: 5000, Time: 10 * time.Second, Count: 1500},
		"syn over v6":  {Kind: SYN, Target: v6, Sources: lab.FloodSources6, Rate: 5000, Time: 10 * time.Second, Count: 1500},
		"udp, fixed":   {Kind: UDP, Target: v4, Sources: fixed, Rate: 5000, Time: 200 * time.Millisecond, Size: 100},
		"icmp, random": {Kind: ICMP, Target: v4, Sources: lab.FloodSources4, Rate: 5000, Time: 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			seen := watch(t, w.P1, c.Sources)
			var r Result
			err := w.Attacker.Block(func() (err error) { r, err = Run(t.Context(), c); return err })
			if err != nil {
				t.Fatal(err)
			}
			want := int(c.Time.Seconds() * float64(c.Rate))
			if c.Count > 0 {
				want = min(want, c.Count)
			}
			if r.Sent+r.Skipped+r.Failed != want {
				t.Errorf("accounts for %d packets, want %d: %+v", r.Sent+r.Skipped+r.Failed, want, r)
			}
			packets, sources := seen(r.Sent)
			if packets != r.Sent {
				t.Errorf("%d packets arrived, %d were sent", packets, r.Sent)
			}
			if one := c.Sources.IsSingleIP(); one != (sources == 1) {
				t.Errorf("%d sources out of %s", sources, c.Sources)
			}
			if r.Rate() > float64(c.Rate)*1.05 {
				t.Errorf("%.0f packets/s, asked for at most %d", r.Rate(), c.Rate)
			}
		})
	}
}

// watch counts the packets that come in from a prefix until seen is called.
func watch(t *testing.T, ns *kernel.Namespace, from netip.Prefix) (seen func(want int) (packets, sources int)) {
	t.Helper()
	var port *frame.Port
	if err := ns.Do(func() (err error) { port, err = frame.OpenPort(lab.Attacker.V4, true); return err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	total := make(chan int, 1)
	counted := make(chan [2]int)
	go func() {
		defer port.Close()
		b, packets, sources, want := make([]byte, 2048), 0, map[netip.Addr]bool{}, -1
		var quiet time.Time // after the last packet it listens a little longer for one too many
		for ctx.Err() == nil && (quiet.IsZero() || time.Since(quiet) < 50*time.Millisecond) {
			n, _ := port.Receive(b, 10*time.Millisecond)
			if v, ok := frame.Look(b[:n]); n > 0 && ok {
				if a, _ := netip.AddrFromSlice(v.Src); from.Contains(a) {
					packets++
					sources[a] = true
				}
			}
			select {
			case want = <-total:
			default:
			}
			if want >= 0 && packets >= want && quiet.IsZero() {
				quiet = time.Now()
			}
		}
		counted <- [2]int{packets, len(sources)}
	}()
	return func(want int) (int, int) {
		total <- want
		c := <-counted
		cancel()
		return c[0], c[1]
	}
}
