//go:build !linux

package firewall

import (
	"errors"
	"fmt"
)

// Text needs Linux.
func Text(Config, bool) (string, error) {
	return "", fmt.Errorf("text of the packet filter: %w", errors.ErrUnsupported)
}
