//go:build !linux

package firewall

import (
	"errors"
	"fmt"
	"log/slog"
)

func openKernel(*slog.Logger) (kernel, error) {
	return nil, fmt.Errorf("nftables: %w", errors.ErrUnsupported)
}
