//go:build !linux

package detect

import (
	"errors"
	"fmt"
	"net/netip"
)

// OpenCounter needs Linux.
func OpenCounter(ifname string, _ ...netip.Addr) (Counter, error) {
	return nil, fmt.Errorf("count packets at %s: %w", ifname, errors.ErrUnsupported)
}
