package main

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// capable says which right an edge lacks: nftables need CAP_NET_ADMIN, packet sockets CAP_NET_RAW.
func capable() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read this process's capabilities: %w", err)
	}
	var missing []string
	for _, c := range []struct {
		bit  uint
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}} {
		if data[0].Effective&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	caps := strings.Join(missing, " ")
	compose := "cap_add: [" + strings.ReplaceAll(strings.Join(missing, ", "), "CAP_", "") + "]"
	return errors.New("an edge needs " + caps + ": run it as root, or with AmbientCapabilities=" + caps + " in its systemd unit, or with this line in compose.yaml: " + compose)
}
