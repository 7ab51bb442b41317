//go:build !linux

package paper

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
)

var errLinux = fmt.Errorf("the paper's client and proxy need Linux: %w", errors.ErrUnsupported)

// Dial says that it needs Linux.
func Dial(context.Context, netip.AddrPort, Assumed) (fd int, t Told, err error) {
	return -1, t, errLinux
}

// DialPlain says that it needs Linux.
func DialPlain(context.Context, netip.AddrPort, time.Duration) (fd int, err error) {
	return -1, errLinux
}

// Hand says that it needs Linux.
func Hand(int, *os.File) error { return errLinux }
