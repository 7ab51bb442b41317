//go:build !linux

package app

import "time"

func nap(d time.Duration) { time.Sleep(d) }
