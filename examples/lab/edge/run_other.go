//go:build !linux

package edge

import (
	"context"
	"os"

	"migrationsensor/examples/lab/kernel"
)

// Run needs Linux.
func Run(_ context.Context, _ Options, _ *os.File) error { return kernel.Enter() }
