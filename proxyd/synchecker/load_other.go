//go:build !linux

package synchecker

import "time"

func threadTime() time.Duration { return 0 }

func hugePages([]byte) {}
