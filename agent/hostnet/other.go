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

func open(Config) (*Host, error) {
	return nil, fmt.Errorf("leading connections into a TUN is not supported on %s yet (use the agent's Go API, or Linux): %w", runtime.GOOS, errors.ErrUnsupported)
}

func (*host) setProtected([]netip.AddrPort) error           { return errors.ErrUnsupported }
func (*host) control(string, string, syscall.RawConn) error { return nil }
func (*host) close() error                                  { return nil }
func sweep(string, *slog.Logger) error                      { return nil }
func janitorMain() bool                                     { return false }
