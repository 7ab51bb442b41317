package edge

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/flood"
)

// attack is a flood that blows until it is ended.
type attack struct {
	t      *target
	cancel context.CancelFunc
	ended  chan error
	storm  bool
	begin  snapshot
}

// snapshot is a target's counters at one moment.
type snapshot struct {
	at     time.Time
	counts flood.Counts
	taken  uint64
}

func (t *target) snapshot() (s snapshot, err error) {
	traffic, err := t.ns.Traffic(t.cable.Proxy)
	return snapshot{time.Now(), t.wire.Counts(), traffic.RxPackets}, err
}

// gentle is the highest rate that is sent by the kernel's way.
const gentle = 20_000

// floodLimit ends floods that nobody ended.
const floodLimit = 50 * time.Second

// attack begins a flood of the port with the cell's rate and kind, and returns when it has blown for a while.
func (s *stage) attack(ctx context.Context, t *target, port uint16, c cell, proofs [][]byte, warm time.Duration) (*attack, error) {
	cfg := flood.Config{
		Kind: flood.SYN, Target: netip.AddrPortFrom(t.at, port), Sources: lab.FloodSources4, Rate: c.rate, Time: floodLimit, Seed: 1,
	}
	switch c.kind {
	case random:
		cfg.Size = proofLen
	case replay:
		cfg.Data = proofs
	}
	a := &attack{t: t, ended: make(chan error, 1), storm: c.rate == top || c.rate > gentle}
	if c.rate == top {
		cfg.Rate = flood.MostStorm
	}
	ctx, a.cancel = context.WithCancel(ctx)
	go func() {
		if a.storm {
			_, err := t.wire.Storm(ctx, cfg, t.cable.MAC, restCPU)
			a.ended <- err
			return
		}
		a.ended <- t.cable.NS.Block(func() error {
			_, err := flood.Run(ctx, cfg)
			return err
		})
	}()
	select {
	case err := <-a.ended:
		a.ended <- nil
		a.cancel()
		return a, fmt.Errorf("the flood ended at once: %w", err)
	case <-time.After(warm):
	}
	var err error
	if a.begin, err = t.snapshot(); err != nil {
		return a, err
	}
	return a, nil
}

// window says what came of the flood since it had blown for a while, or since the last window.
func (a *attack) window() (w window, err error) {
	last, err := a.t.snapshot()
	if err != nil {
		return w, err
	}
	w = window{
		took: last.at.Sub(a.begin.at), syn: last.counts.SYN - a.begin.counts.SYN, clients: last.counts.Clients - a.begin.counts.Clients,
		taken: last.taken - a.begin.taken, ans: last.counts.Answered - a.begin.counts.Answered,
	}
	if !a.storm { // the kernel's way has no counter of its own while it blows, and loses nothing on it
		w.syn = w.taken - min(w.taken, w.clients)
	}
	a.begin = last
	return w, nil
}

// end ends the flood.
func (a *attack) end() error {
	a.cancel()
	return <-a.ended
}
