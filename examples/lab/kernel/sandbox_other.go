//go:build !linux

package kernel

import (
	"errors"
	"fmt"
	"runtime"
)

// Enter says that the kernel's world needs Linux.
func Enter() error {
	return fmt.Errorf("%w: namespaces are Linux's, this is %s: %w", ErrNoSandbox, runtime.GOOS, errors.ErrUnsupported)
}
