package migrate

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
)

// circle is the order in which a session is led from proxy to proxy.
var circle = []string{"p1", "p2", "p3"}

// transfer moves the same bytes without moves, with them, and without again.
func (r *run) transfer(ctx context.Context) error {
	if err := startClient(ctx, r.fleet); err != nil {
		return err
	}
	r.moves = r.sizes.moves
	for i, moves := range []int{0, r.sizes.moves, 0} {
		r.progress.Enter("%s: %d MiB each way, %d moves", partTransfer, r.sizes.transfer>>20, moves)
		t, err := Moved(ctx, r.fleet, r.fleet.World.Client, r.sizes.transfer, uint64(i), moves)
		if err != nil {
			r.transferWhy = err.Error()
			return err
		}
		if moves == 0 {
			r.still = append(r.still, t)
		} else {
			r.found.moved = append(r.found.moved, t)
		}
		r.progress.Did(partTransfer)
	}
	return r.fleet.Stop("client")
}

// startClient starts the client's agent, which has a TUN, and waits until it is there.
func startClient(ctx context.Context, f *fleet.Fleet) error {
	if err := errors.Join(f.AgentToken(ctx, "client"), f.StartAgent("client", "warm")); err != nil {
		return err
	}
	return f.WaitForAgent(ctx, "client", 20*time.Second)
}

// Moved runs a transfer of the client through P1's address while its session is led from proxy to proxy, so often and evenly
// spread over the bytes.
func Moved(ctx context.Context, f *fleet.Fleet, ns *kernel.Namespace, size int64, seed uint64, moves int) (app.Transferred, error) {
	to, _ := lab.P1.Port(lab.TransferPort)
	t, err := startTransfer(f, ns, to.String(), size, seed)
	if err != nil {
		return app.Transferred{}, err
	}
	for i := range moves {
		if err := t.until(ctx, 2*size*int64(i+1)/int64(moves+1)); err != nil {
			return t.last.Result, errors.Join(err, t.stop())
		}
		if err := nextProxy(ctx, f); err != nil {
			return t.last.Result, errors.Join(fmt.Errorf("move %d: %w", i+1, err), t.stop())
		}
	}
	return t.end(ctx)
}

// nextProxy leads the client's session to the next proxy of the circle and waits until it is there.
func nextProxy(ctx context.Context, f *fleet.Fleet) error {
	st, err := f.AgentStatus(ctx, "client")
	if err != nil {
		return err
	}
	if st.Edge == nil {
		return fmt.Errorf("the agent is at no proxy: %s", st.Why)
	}
	from := fleet.NameOf(st.Edge.Addr)
	to := circle[(slices.Index(circle, from)+1)%len(circle)]
	if err := f.Migrate(ctx, from, to); err != nil {
		return err
	}
	return fleet.Wait(ctx, 20*time.Second, "the client's agent moves from "+from+" to "+to, f.Children(), func() (bool, error) {
		st, err := f.AgentStatus(ctx, "client")
		if err != nil || st.Edge == nil {
			return false, err
		}
		return fleet.NameOf(st.Edge.Addr) == to, fmt.Errorf("it is at %s", fleet.NameOf(st.Edge.Addr))
	})
}

// transferring is `ms-lab transfer` while it runs.
type transferring struct {
	cmd   *exec.Cmd
	lines chan app.Report // closed when it ended
	told  *strings.Builder
	last  app.Report
}

func startTransfer(f *fleet.Fleet, ns *kernel.Namespace, to string, size int64, seed uint64) (*transferring, error) {
	t := &transferring{lines: make(chan app.Report, 1), told: &strings.Builder{}}
	t.cmd = exec.Command(f.Lab(), "transfer", to, "--size", strconv.FormatInt(size, 10), "--seed", strconv.FormatUint(seed, 10))
	t.cmd.Stderr = t.told
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := ns.Start(t.cmd); err != nil {
		return nil, fmt.Errorf("start a transfer: %w", err)
	}
	go func() {
		defer close(t.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			var r app.Report
			if json.Unmarshal(s.Bytes(), &r) == nil {
				t.lines <- r
			}
		}
	}()
	return t, nil
}

// until waits until so many bytes have gone, both directions together.
func (t *transferring) until(ctx context.Context, bytes int64) error {
	for t.last.Bytes < bytes && !t.last.Done {
		if err := t.next(ctx); err != nil {
			return err
		}
	}
	return nil
}

var errTransfer = errors.New("the transfer broke")

// transferLimit is how long nothing may move before a transfer is given up.
const transferLimit = 100 * time.Second

func (t *transferring) next(ctx context.Context) error {
	before, since := t.last.Bytes, time.NewTimer(transferLimit)
	defer since.Stop()
	for t.last.Bytes == before && !t.last.Done {
		select {
		case r, ok := <-t.lines:
			if !ok {
				return fmt.Errorf("%w: %s", errTransfer, strings.TrimSpace(t.told.String()))
			}
			t.last = r
		case <-ctx.Done():
			return ctx.Err()
		case <-since.C:
			return fmt.Errorf("%w: nothing came for %v, after %d bytes", errTransfer, transferLimit, before)
		}
	}
	return nil
}

// end waits for its end.
func (t *transferring) end(ctx context.Context) (app.Transferred, error) {
	for !t.last.Done {
		if err := t.next(ctx); err != nil {
			return t.last.Result, errors.Join(err, t.stop())
		}
	}
	if err := t.stop(); err != nil && t.last.Error == "" {
		return t.last.Result, err
	}
	if t.last.Error != "" {
		return t.last.Result, fmt.Errorf("%w: %s", errTransfer, t.last.Error)
	}
	return t.last.Result, nil
}

// stop ends the program if it has not, and waits for it.
func (t *transferring) stop() error {
	if !t.last.Done {
		_ = t.cmd.Process.Kill()
	}
	for range t.lines { // to its end
	}
	if err := t.cmd.Wait(); err != nil && t.last.Done && t.last.Error == "" {
		return fmt.Errorf("the transfer: %w", err)
	}
	return nil
}
