//go:build !linux

package flood

import (
	"context"
	"errors"
	"fmt"
)

// Run says that the flood tool needs Linux.
func Run(_ context.Context, c Config) (Result, error) {
	if err := c.Check(); err != nil {
		return Result{}, err
	}
	return Result{}, fmt.Errorf("the flood tool needs Linux's namespaces: %w", errors.ErrUnsupported)
}
