//go:build !linux

package main

import (
	"errors"
	"fmt"
)

func capable() error { return fmt.Errorf("an edge runs on Linux only: %w", errors.ErrUnsupported) }
