package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func sweep(path string, log *slog.Logger) error {
	state, err := lockState(path)
	if err != nil {
		return err
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return errors.Join(fmt.Errorf("netlink: %w", err), state.unlock())
	}
	defer nl.Close()
	d, err := openDiag()
	if err != nil {
		return errors.Join(err, state.unlock())
	}
	defer d.close()
	if err := sweepAll(nl, d, state.read(), logger(log)); err != nil {
		return errors.Join(err, state.unlock())
	}
	return state.remove()
}

// sweepAll removes what a dead agent left.
func sweepAll(nl *netlink.Handle, d *diag, left leftovers, log *slog.Logger) error {
	if err := awaitNoRoute(nl); err != nil {
		return err
	}
	n, err := deleteRules(nl)
	if n > 0 {
		log.Info("removed what a dead agent left", "rules", n)
	}
	if err != nil {
		return err
	}
	d.abortFrom(log, left.Addr4, left.Addr6)
	return nil
}

// awaitNoRoute fails if an agent with another state file is alive: its TUN would have died with it, and the
// routes with the TUN. One that is just dying gets its time.
func awaitNoRoute(nl *netlink.Handle) error {
	start := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		routes, err := ourRoutes(nl)
		if err != nil || len(routes) == 0 {
			return err
		}
		if time.Since(start) > ownerPatience {
			return fmt.Errorf("table %d has a route to %v on interface %d: %w (stop it: ms-agent down)", table, routes[0].Dst, routes[0].LinkIndex, ErrInUse)
		}
		<-tick.C
	}
}

func ourRoutes(nl *netlink.Handle) (all []netlink.Route, err error) {
	for _, fam := range families {
		routes, err := nl.RouteListFiltered(fam, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes of table %d: %w", table, err)
		}
		all = append(all, routes...)
	}
	return all, nil
}

var families = []int{netlink.FAMILY_V4, netlink.FAMILY_V6}

// deleteRules deletes every rule that carries our protocol number.
func deleteRules(nl *netlink.Handle) (n int, err error) {
	var errs []error
	for _, fam := range families {
		rules, err := nl.RuleList(fam)
		if err != nil {
			errs = append(errs, fmt.Errorf("list rules: %w", err))
			continue
		}
		for _, r := range rules {
			if r.Protocol != ours || r.Priority < prefFromTUN || r.Priority > prefNew {
				continue
			}
			r.Family = fam
			if err := nl.RuleDel(&r); err != nil && !gone(err) {
				errs = append(errs, fmt.Errorf("delete %v: %w", r, err))
				continue
			}
			n++
		}
	}
	return n, errors.Join(errs...)
}
