package anchor

import (
	"bytes"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// machineMemory is what the machine has, or the container where that is less.
func machineMemory() int64 {
	total := int64(math.MaxInt64)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		total = int64(info.Totalram) * int64(info.Unit)
	}
	b, err := os.ReadFile("/sys/fs/cgroup/memory.max") // "max" without a limit
	if err != nil {
		return total
	}
	if limit, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64); err == nil {
		total = min(total, limit)
	}
	return total
}
