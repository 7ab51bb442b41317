package proxyd

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// lockName is an abstract socket: like the firewall's table it belongs to one network namespace, and
// it goes with its process, whatever ended that.
const lockName = "@migrationsensor/proxyd"

// Lock keeps a second edge out. It would take the place of the firewall's table when it starts, and
// remove it when it fails.
func (kernel) Lock() (release func() error, err error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: lockName, Net: "unix"})
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another proxyd guards the ports of this machine already: stop it (proxyd down), or run this one on a machine or in a network namespace of its own: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock against a second proxyd: %w", err)
	}
	return l.Close, nil
}
