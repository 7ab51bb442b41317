//go:build !linux

package tables

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Run says that the kernel's world needs Linux.
func Run(context.Context, Options, *os.File) error {
	return fmt.Errorf("the lab on the real kernel needs Linux: %w", errors.ErrUnsupported)
}
