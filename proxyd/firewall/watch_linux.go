package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Watch reapplies the rules when a public interface was removed and came back: before Linux 6.16 its
// chain goes with it (docker network disconnect, a driver reset); and when another program took them away
// (nft flush ruleset). It returns when ctx is done, with nil.
func (f *Firewall) Watch(ctx context.Context) error {
	// Both in this goroutine: it may be in a network namespace of its own.
	rules, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{})
	if err != nil {
		return fmt.Errorf("watch rules: %w", err)
	}
	defer rules.Close()
	if err := rules.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("watch rules: %w", err)
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_LINK})
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	defer c.Close()
	// What happened before the subscription is made good now; what happens from here on is heard.
	if err := f.Reapply(); err != nil {
		f.log.Error("public interface is not guarded", "err", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		c.SetReadDeadline(time.Unix(1, 0))
		rules.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	taken := make(chan struct{}, 1)
	links := make(chan []netlink.Message)
	g.Go(func() error { return heedRules(ctx, rules, taken) })
	g.Go(func() error { return heedLinks(ctx, c, links) })
	f.heed(ctx, taken, links)
	return g.Wait()
}

// heed acts on what is heard, until ctx is done.
func (f *Firewall) heed(ctx context.Context, taken <-chan struct{}, links <-chan []netlink.Message) {
	index := make(map[string]uint32) // of the links that are there, as far as heard
	for {
		select {
		case <-ctx.Done():
			return
		case <-taken:
			if err := f.repair(); err != nil {
				f.log.Error("firewall can't be put back", "err", err)
			}
		case msgs := <-links:
			if msgs == nil {
				f.reappeared("unknown")
			}
			for _, m := range msgs {
				name, i := link(m)
				switch {
				case !f.guards(name):
				case m.Header.Type == unix.RTM_DELLINK:
					delete(index, name)
				case index[name] != i: // once more than needed for a link that was never away
					index[name] = i
					f.reappeared(name)
				}
			}
		}
	}
}

// repairEvery bounds how often the rules are looked at while somebody changes some.
const repairEvery = 200 * time.Millisecond

// heedRules tells of anything that is taken away, by whomever.
func heedRules(ctx context.Context, c *netlink.Conn, taken chan<- struct{}) error {
	for {
		msgs, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("watch rules: %w", err)
		case err == nil && !slices.ContainsFunc(msgs, takesAway):
			continue
		}
		select {
		case taken <- struct{}{}:
		default:
		}
		select { // what comes meanwhile waits in the socket
		case <-ctx.Done():
			return nil
		case <-time.After(repairEvery):
		}
	}
}

// heedLinks passes on what is said of links; nil: some of it was lost, and one of ours may be among it.
func heedLinks(ctx context.Context, c *netlink.Conn, links chan<- []netlink.Message) error {
	for {
		msgs, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			msgs = nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("watch interfaces: %w", err)
		case len(msgs) == 0:
			continue
		}
		select {
		case links <- msgs:
		case <-ctx.Done():
			return nil
		}
	}
}

// takesAway reports whether a message of nf_tables tells of a table, chain or rule that is gone.
func takesAway(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return false
	}
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE:
		return true
	}
	return false
}

func (f *Firewall) reappeared(name string) {
	if err := f.Reapply(); err != nil {
		f.log.Error("public interface is not guarded", "interface", name, "err", err)
		return
	}
	f.log.Info("public interface is guarded", "interface", name)
}

// link reads name and index from a link message: struct ifinfomsg, then attributes.
func link(m netlink.Message) (name string, index uint32) {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return "", 0
	}
	d, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:])
	if err != nil {
		return "", 0
	}
	for d.Next() {
		if d.Type() == unix.IFLA_IFNAME {
			name = d.String()
		}
	}
	return name, binary.NativeEndian.Uint32(m.Data[4:])
}
