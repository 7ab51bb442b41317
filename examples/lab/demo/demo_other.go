//go:build !linux

package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
)

var errNeedsLinux = fmt.Errorf("the lab on the real kernel needs Linux: %w", errors.ErrUnsupported)

// Run says that the kernel's world needs Linux.
func Run(context.Context, Options, *os.File) error { return errNeedsLinux }

// Connect says that the kernel's world needs Linux.
func Connect(context.Context, Options, int, *os.File) error { return errNeedsLinux }

// Fetch says that the kernel's world needs Linux.
func Fetch(context.Context, string, func([]byte) error) (string, error) { return "", errNeedsLinux }

// RunCompose says that the driver needs Linux.
func RunCompose(context.Context, Options, string, *os.File) error {
	return fmt.Errorf("make compose-demo runs on Linux; examples/compose/README.md says what to do by hand elsewhere: %w", errors.ErrUnsupported)
}
