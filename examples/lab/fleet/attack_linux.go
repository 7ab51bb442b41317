package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/flood"
)

// ErrNoHping3 says that the paper's launcher is not installed.
var ErrNoHping3 = errors.New("hping3 is not here: install it (apt install hping3), or use --attacker own")

// Attack floods from the attacker's namespace until the flood's time is over or ctx is done, by a
// program of its own so that it shares nothing with what is measured. It says what was sent.
func (f *Fleet) Attack(ctx context.Context, a Attack) (told string, err error) {
	if a.Attacker == "hping3" {
		return f.hping3(ctx, a)
	}
	r, err := f.Flood(ctx, a)
	return fmt.Sprintf("%d packets, %.0f/s", r.Sent, r.Rate()), err
}

// Flood is Attack by the lab's own tool.
func (f *Fleet) Flood(ctx context.Context, a Attack) (r flood.Result, err error) {
	limited, cancel := context.WithTimeout(ctx, a.Time+10*time.Second)
	defer cancel()
	out, err := f.World.Attacker.Output(limited, f.cfg.Lab, "flood", "--kind", string(a.Kind), "--rate", strconv.Itoa(a.Rate),
		"--time", a.Time.String(), "--sources", lab.FloodSources4.String(), "--json", a.Target.String())
	_ = os.WriteFile(f.attackers(a).Log, []byte(out), 0o644)
	if err != nil {
		return r, fmt.Errorf("the flood: %w: %s", errors.Join(ctx.Err(), err), out)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return r, fmt.Errorf("the flood's result: %w: %s", err, out)
	}
	return r, nil
}

// attackers are the attacker's files: floods of several targets may run at once.
func (f *Fleet) attackers(a Attack) Paths { return f.dirs.of("attacker-" + a.Target.Addr().String()) }

// hping3 is the paper's own launcher: -S, random sources, one SYN each 1,000,000/rate µs.
func (f *Fleet) hping3(ctx context.Context, a Attack) (string, error) {
	program, err := exec.LookPath("hping3")
	if err != nil {
		return "", fmt.Errorf("%w (%w)", ErrNoHping3, err)
	}
	kind := map[flood.Kind]string{flood.SYN: "-S", flood.ICMP: "-1", flood.UDP: "-2"}[a.Kind]
	every := max(1, 1_000_000/a.Rate)
	c, err := Start(f.World.Attacker, "hping3", f.attackers(a), program, kind, "-q", "-p", strconv.Itoa(int(a.Target.Port())),
		"-i", "u"+strconv.Itoa(every), "--rand-source", a.Target.Addr().String())
	if err != nil {
		return "", err
	}
	select {
	case <-c.done:
		return "", c.Ended()
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), c.Stop(time.Second))
	case <-time.After(a.Time):
	}
	_ = c.cmd.Process.Signal(syscall.SIGINT) // makes it print its count
	return fmt.Sprintf("hping3, one packet each %d µs", every), c.Stop(2 * time.Second)
}
