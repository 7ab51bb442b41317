package lab

import (
	"errors"
	"fmt"
	"time"

	"migrationsensor/examples/lab/kernel"
)

// AddBehind adds a machine that is on the backplane only, such as an anchor beside the origin.
func (w *World) AddBehind(name string, at host) (*kernel.Namespace, error) {
	ns, err := kernel.NewNamespace(name, nil)
	if err != nil {
		return nil, fmt.Errorf("add %s: %w", name, err)
	}
	w.more = append(w.more, ns)
	if err := w.plugBack(ns, at); err != nil {
		return nil, fmt.Errorf("add %s: %w", name, err)
	}
	return ns, nil
}

// AddCrowd adds a machine that stands for many clients: every address of Crowd4 is its own, so that each of them may have
// one. Its link has this round trip and no other fault.
func (w *World) AddCrowd(rtt time.Duration) (*kernel.Namespace, *kernel.Link, error) {
	ns, err := kernel.NewNamespace("crowd", nil)
	if err != nil {
		return nil, nil, fmt.Errorf("add the crowd: %w", err)
	}
	w.more = append(w.more, ns)
	link, err := kernel.NewLink(ns, w.Router, Uplink, ns.Name, kernel.Conditions{Delay: rtt / 2}, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("add the crowd: %w", err)
	}
	w.moreLinks = append(w.moreLinks, link)
	if err := errors.Join(
		ns.Up(Uplink), ns.Own(Crowd4), w.Router.Up(ns.Name),
		ns.Route(kernel.Route{To: everywhere4, Dev: Uplink}),
		w.Router.Route(kernel.Route{To: Crowd4, Dev: ns.Name}),
	); err != nil {
		return nil, nil, fmt.Errorf("add the crowd: %w", err)
	}
	return ns, link, nil
}

// Way is a direction through the router.
type Way int

// What the internet loses: all to an address, all from it, or both.
const (
	Both Way = iota
	Toward
	From
)

// Silence makes the internet lose what goes to an address, comes from it, or both, without a word: it is not dead, it is
// not reset, nobody hears. undo brings it back.
func (w *World) Silence(at host, way Way) (undo func() error, err error) {
	var undos []func() error
	undo = func() error {
		var errs []error
		for _, u := range undos {
			errs = append(errs, u())
		}
		return errors.Join(errs...)
	}
	for _, a := range []struct {
		skip bool
		drop func() (func() error, error)
	}{
		{way == From, func() (func() error, error) { return w.Router.Drop(nowhere, single(at.V4)) }},
		{way == From, func() (func() error, error) { return w.Router.Drop(nowhere, single(at.V6)) }},
		{way == Toward, func() (func() error, error) { return w.Router.Drop(single(at.V4), nowhere) }},
		{way == Toward, func() (func() error, error) { return w.Router.Drop(single(at.V6), nowhere) }},
	} {
		if a.skip {
			continue
		}
		u, err := a.drop()
		if err != nil {
			return undo, errors.Join(fmt.Errorf("silence %s: %w", at.V4, err), undo())
		}
		undos = append(undos, u)
	}
	return undo, nil
}

// Narrow makes the way between the router and a machine lose long packets, and nobody says so: a path MTU black hole.
func (w *World) Narrow(ns *kernel.Namespace, mtu int) (undo func() error, err error) {
	const whole = 1500
	icmp, err := w.Router.DropICMP()
	if err != nil {
		return func() error { return nil }, fmt.Errorf("lose ICMP: %w", err)
	}
	undo = func() error { return errors.Join(w.Router.MTU(ns.Name, whole), icmp()) }
	if err := w.Router.MTU(ns.Name, mtu); err != nil {
		return undo, errors.Join(fmt.Errorf("narrow the way to %s: %w", ns.Name, err), undo())
	}
	return undo, nil
}

// Roam gives the client another address on its link, in both families: what it had open is cut off.
func (w *World) Roam(from, to host) error {
	return errors.Join(
		w.Router.Route(kernel.Route{To: single(to.V4), Dev: w.Client.Name}),
		w.Router.Route(kernel.Route{To: single(to.V6), Dev: w.Client.Name}),
		w.Client.Readdress(Uplink, single(from.V4), single(to.V4)),
		w.Client.Readdress(Uplink, single(from.V6), single(to.V6)),
	)
}
