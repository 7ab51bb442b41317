package link

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestScarce: above half of the file limit a relayed link gets no pipes.
func TestScarce(t *testing.T) {
	c, _ := tcpPair(t)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}()
	number := 0
	option(c, func(fd int) { number = fd })
	for _, x := range []struct {
		limit uint64
		want  bool
	}{{2 * uint64(number), true}, {2 * uint64(number+1), false}} {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: x.limit, Max: before.Max}); err != nil {
			t.Fatal(err)
		}
		if got := scarce(c); got != x.want {
			t.Errorf("descriptor %d of %d: got %v, want %v", number, x.limit, got, x.want)
		}
	}
}
