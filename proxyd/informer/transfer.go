package informer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"migrationsensor/proto"
)

const (
	admitFor   = 30 * time.Second // how long a RATIFY opens the next proxy's door
	ratifyWait = 150 * time.Millisecond
	ratifiers  = 16 // RATIFYs under way at once
)

// ratifyAgain are the times after the first sending at which a RATIFY that was not approved is
// repeated.
var ratifyAgain = []time.Duration{50 * time.Millisecond, ratifyWait}

// errBusy is a neighbour's refusal to take a client.
var errBusy = errors.New("the neighbour is busy")

type ratify struct {
	to  proto.NodeID
	msg *proto.Ratify
}

// Transfer answers a verified newcomer with the transfer notification of the paper (section 4.2.4):
// the next proxy's address and the client's key for it. The matching ratify notification is queued
// and sent by Run; the answer does not wait for it, because the client also opens the door itself
// (knock). ok is false when no next proxy is permitted: the caller then names itself or says RETRY.
func (i *Informer) Transfer(v proto.Verified, from netip.AddrPort) (_ proto.Reply, ok bool) {
	from = seen(from)
	now := i.cfg.Now()
	i.mu.Lock()
	n, ok := i.pickLocked(v.Agent, now, Order{})
	if !ok {
		i.mu.Unlock()
		return proto.Reply{}, false
	}
	i.tellLocked(v.Agent, n)
	i.stats.Transfer++
	round := i.round
	i.mu.Unlock()

	select {
	case i.ratifies <- ratify{n.Node, &proto.Ratify{
		Attempt: v.Nonce, Agent: v.Agent, Addr: from.Addr(), Expiry: admitFor,
	}}:
	default: // the client enters by its knock
	}
	return proto.Reply{
		Kind: proto.ReplyTransfer, Targets: []proto.Target{n.target(v.Agent)},
		Round: round, Client: from,
	}, true
}

// Self is the answer when no spare is left: a transfer notification that names this proxy itself,
// with the key the client already used. The caller admits the client's address first.
func Self(self proto.Target, round uint64, from netip.AddrPort) proto.Reply {
	return proto.Reply{
		Kind: proto.ReplyTransfer, Targets: []proto.Target{self}, Round: round, Client: seen(from),
	}
}

// Run sends the queued ratify notifications until ctx is done.
func (i *Informer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range ratifiers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case r := <-i.ratifies:
					i.ratify(ctx, r)
				}
			}
		})
	}
	<-ctx.Done()
	return nil
}

// ratify tells the next proxy whom to admit and waits for its approval, repeating the notification
// while there is none.
func (i *Informer) ratify(ctx context.Context, r ratify) {
	i.count(func(s *Stats) { s.Ratify++ })
	err := i.ask(ctx, r.to, r.msg)
	switch {
	case err == nil:
		i.count(func(s *Stats) { s.RatifyOK++ })
	case errors.Is(err, errBusy):
		i.refused(r.to)
	default:
		i.log.Debug("ratify not approved", "node", r.to, "agent", r.msg.Agent, "err", err)
	}
}

// ask sends m at once and again at each of ratifyAgain until it is answered.
func (i *Informer) ask(ctx context.Context, to proto.NodeID, m proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, ratifyWait+ratifyWait)
	defer cancel()
	answers := make(chan error, 1+len(ratifyAgain))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	try := func() {
		wg.Go(func() {
			reply, err := i.cfg.Peers.Request(ctx, to, m)
			if _, busy := reply.(*proto.Busy); busy {
				err = errBusy
			}
			answers <- err
		})
	}
	try()
	start := time.Now()
	var last error
	for tries := 0; ; {
		var again <-chan time.Time
		if tries < len(ratifyAgain) {
			again = time.After(time.Until(start.Add(ratifyAgain[tries])))
		}
		select {
		case <-again:
			tries++
			try()
		case err := <-answers:
			if err == nil || errors.Is(err, errBusy) {
				return err
			}
			if last = err; tries == len(ratifyAgain) {
				return last
			}
		case <-ctx.Done():
			return fmt.Errorf("no answer from %s: %w", to, errors.Join(ctx.Err(), last))
		}
	}
}

// refused notes a BUSY: the neighbour gets no new client for a while.
func (i *Informer) refused(n proto.NodeID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stats.Busy++
	c := i.conditions[n]
	c.busy = i.cfg.Now()
	i.conditions[n] = c
}

func (i *Informer) count(f func(*Stats)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f(&i.stats)
}
