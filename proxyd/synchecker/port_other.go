//go:build !linux

package synchecker

import (
	"errors"
	"fmt"
)

// OpenPort needs Linux's packet sockets.
func OpenPort(ifname string, _ Filter) (Port, error) {
	return nil, fmt.Errorf("packet port on %s: %w (the SYN Checker needs linux)", ifname, errors.ErrUnsupported)
}

// OpenPath is for Linux too.
func OpenPath(ifname string, f Filter, _ Path) (Port, Taken, error) {
	p, err := OpenPort(ifname, f)
	return p, Taken{Path: PathPacket}, err
}

// CanOffload needs Linux.
func CanOffload() error { return fmt.Errorf("packet program: %w", errors.ErrUnsupported) }
