//go:build !linux

package firewall

import (
	"context"
	"errors"
	"fmt"
)

// Watch needs Linux.
func (f *Firewall) Watch(context.Context) error {
	return fmt.Errorf("watch interfaces: %w", errors.ErrUnsupported)
}
