//go:build !linux

package anchor

// machineMemory is a guess: an anchor is run on Linux, and elsewhere in tests.
func machineMemory() int64 { return 4 << 30 }
