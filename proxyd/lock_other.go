//go:build !linux

package proxyd

import (
	"errors"
	"fmt"
)

// Lock needs Linux, as every edge does.
func (kernel) Lock() (release func() error, err error) {
	return nil, fmt.Errorf("run an edge: %w", errors.ErrUnsupported)
}
