//go:build !linux

package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"syscall"
)

type host struct{}

func unsupported() error {
	return fmt.Errorf("leading connections into a TUN on %s: %w (run ms-agent on Linux, or embed the agent and use its dialer)", runtime.GOOS, errors.ErrUnsupported)
}

func open(Config) (*Host, error) { return nil, unsupported() }

func (*host) setProtected([]netip.AddrPort) error           { return unsupported() }
func (*host) control(string, string, syscall.RawConn) error { return nil }
func (*host) close() error                                  { return nil }
func sweep(string, *slog.Logger) error                      { return nil }
func janitorMain() bool                                     { return false }
