package proxyd

import (
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestOneEdgeAMachine(t *testing.T) {
	// In a network namespace of its own, where one can be had: a proxyd may run on this machine. The
	// thread goes with the goroutine.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			t.Logf("in the machine's own namespace: %v", err)
		}
		release, err := kernel{}.Lock()
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := (kernel{}).Lock(); err == nil || !strings.Contains(err.Error(), "another proxyd") {
			t.Errorf("a second edge: got %v, want it refused", err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
		again, err := kernel{}.Lock()
		if err != nil {
			t.Errorf("after the first has gone: %v", err)
			return
		}
		again()
	}()
	<-done
}
