package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"migrationsensor/proto"
)

// Rules of following (the protocol's).
const (
	maxTransfers = 3
	maxClockSkew = 24 * time.Hour
)

// ErrChase is a chain of transfers that breaks the rules: too long, or back to a node it came from.
var ErrChase = errors.New("transferred in circles")

// ErrClock is a clock too far off to be helped by the proxy's.
var ErrClock = errors.New("this machine's clock is off")

// ErrAvoided is a TRANSFER to the proxy that is to be avoided: who named it may know in a while that it is gone.
var ErrAvoided = errors.New("sent to a proxy that says nothing")

type avoidedKey struct{}

// Avoiding has dials with the context follow no TRANSFER to a node: the caller just found that it says nothing, and whoever
// sends there does not know yet. They end with ErrAvoided instead. Dialling the node itself is not hindered.
func Avoiding(ctx context.Context, node proto.NodeID) context.Context {
	return context.WithValue(ctx, avoidedKey{}, node)
}

// Follow opens a link, starting at the proxy t, and goes where sealed TRANSFERs send it: at most 3 of
// them, never twice to the same node, except that an edge may name itself once, which admits the
// client. It returns the proxies dialled too, the last one is the link's. A BUSY or RETRY ends it as
// a *SealedError: the caller waits.
func (d *Dialer) Follow(ctx context.Context, t proto.Target, kind proto.Kind) (*Link, []proto.Target, error) {
	return d.follow(ctx, t, errand{kind: kind}, false)
}

// FollowTold is Follow to a target that a MIGRATE named: its door opens to a knock.
func (d *Dialer) FollowTold(ctx context.Context, t proto.Target, kind proto.Kind) (*Link, []proto.Target, error) {
	return d.follow(ctx, t, errand{kind: kind}, true)
}

// FollowVia is Follow for a data link that ends at an anchor, wherever TRANSFERs send it: each proxy passes it on,
// unless it is the anchor itself. A zero anchor is the proxy that is reached in the end, as with Follow; a link of
// another kind ends there in any case.
func (d *Dialer) FollowVia(ctx context.Context, t proto.Target, kind proto.Kind, anchor proto.NodeID) (*Link, []proto.Target, error) {
	return d.follow(ctx, t, errand{kind, anchor}, false)
}

// FollowToldVia is FollowVia to a target that a MIGRATE named.
func (d *Dialer) FollowToldVia(ctx context.Context, t proto.Target, kind proto.Kind, anchor proto.NodeID) (*Link, []proto.Target, error) {
	return d.follow(ctx, t, errand{kind, anchor}, true)
}

// errand is what a link is for, and stays from one proxy to the next.
type errand struct {
	kind   proto.Kind
	anchor proto.NodeID // of a data link; zero: the proxy that is dialled
}

// end is who ends the link when the proxy t is dialled.
func (e errand) end(t proto.Target) proto.NodeID {
	if e.kind != proto.KindData || e.anchor.IsZero() {
		return t.Node
	}
	return e.anchor
}

func (d *Dialer) follow(ctx context.Context, t proto.Target, e errand, told bool) (*Link, []proto.Target, error) {
	var path []proto.Target
	next, transfers := []proto.Target{t}, 0
	for {
		l, se, err := d.first(ctx, next, e, told, &path)
		if err != nil {
			return nil, path, err
		}
		if l != nil {
			return l, path, nil
		}
		if se.Reply.Kind != proto.ReplyTransfer {
			return nil, path, se
		}
		if transfers++; transfers > maxTransfers {
			return nil, path, fmt.Errorf("%w: more than %d transfers", ErrChase, maxTransfers)
		}
		if next = permitted(se.Reply.Targets, path); len(next) == 0 {
			return nil, path, fmt.Errorf("%w: back to a proxy that was tried", ErrChase)
		}
		if node, ok := ctx.Value(avoidedKey{}).(proto.NodeID); ok {
			next = slices.DeleteFunc(next, func(t proto.Target) bool { return t.Node == node })
			if len(next) == 0 {
				return nil, path, fmt.Errorf("%w: %s", ErrAvoided, node)
			}
		}
		told = true
	}
}

// permitted are the targets that may be dialled after path: those not in it, and the last one if it
// named itself for the first time.
func permitted(targets, path []proto.Target) (out []proto.Target) {
	last := path[len(path)-1].Node
	for _, t := range targets {
		dials := 0
		for _, p := range path {
			if p.Node == t.Node {
				dials++
			}
		}
		if dials == 0 || dials == 1 && t.Node == last {
			out = append(out, t)
		}
	}
	return out
}

// first tries the targets in order until one answers, with a link or sealed. The path notes those
// that were dialled.
func (d *Dialer) first(ctx context.Context, targets []proto.Target, e errand, told bool, path *[]proto.Target) (*Link, *SealedError, error) {
	var errs []error
	for _, t := range targets {
		*path = append(*path, t)
		l, err := d.reach(ctx, t, e, told)
		if err == nil {
			return l, nil, nil
		}
		var se *SealedError
		if errors.As(err, &se) {
			return nil, se, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, nil, errors.Join(errs...)
}

// reach dials one proxy, and once more with the right time if it rejects this machine's clock.
func (d *Dialer) reach(ctx context.Context, t proto.Target, e errand, told bool) (*Link, error) {
	a := attempt{t: t, kind: e.kind, target: e.end(t), told: told}
	l, err := d.race(ctx, a)
	var se *SealedError
	if !errors.As(err, &se) || se.Reply.Kind != proto.ReplyReject || se.Reply.Code != proto.RejectClock {
		return l, err
	}
	skew := se.Reply.ServerTime.Sub(d.clock())
	if skew.Abs() > maxClockSkew {
		return nil, fmt.Errorf("%w by %v: set it right, then try again", ErrClock, skew.Abs().Round(time.Minute))
	}
	d.skew.Store(int64(skew))
	d.log().Warn("this machine's clock is off; using the proxy's time", "skew", skew.Round(time.Second))
	return d.race(ctx, a)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Dialer) redial() time.Duration { return max(minRedial, d.srtt()*3/2) }
