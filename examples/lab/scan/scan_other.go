//go:build !linux

package scan

import (
	"context"
	"errors"
	"fmt"
)

// Run says that the scan needs Linux.
func Run(_ context.Context, c Config) (Result, error) {
	if err := c.Default().Check(); err != nil {
		return Result{}, err
	}
	return Result{}, fmt.Errorf("the scan needs Linux's namespaces: %w", errors.ErrUnsupported)
}
