package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch reapplies the rules when a public interface was removed and came back: before Linux 6.16 its
// chain goes with it (docker network disconnect, a driver reset). It returns when ctx is done,
// with nil.
func (f *Firewall) Watch(ctx context.Context) error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_LINK})
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// What happened before the subscription is made good now; what happens from here on is heard.
	if err := f.Reapply(); err != nil {
		f.log.Error("public interface is not guarded", "err", err)
	}
	index := make(map[string]uint32) // of the links that are there, as far as heard
	for {
		msgs, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // some were lost: one of ours may be among them
			f.reappeared("unknown")
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("watch interfaces: %w", err)
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
