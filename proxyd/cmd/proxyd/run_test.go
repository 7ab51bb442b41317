package main

import (
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

type stops chan struct{}

func (s stops) Stop() { s <- struct{}{} }

// TestSecondSignalHurries: the first signal is the context's, the second one asks again.
func TestSecondSignalHurries(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process there can't send itself SIGTERM")
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	asked := make(stops, 2)
	done := hurry(asked)
	defer done()
	end := time.After(20 * time.Second)
	for sent := 0; ; { // the kernel may join two signals that are sent at once
		if sent < 2 {
			if err := self.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		select {
		case <-asked:
			if sent < 2 {
				t.Error("the first signal hurried it")
			}
			return
		case <-time.After(300 * time.Millisecond):
		case <-end:
			t.Fatal("two signals did not hurry it")
		}
	}
}

// TestSignalsThatDoNotCome: a proxy that ends by itself leaves nothing behind.
func TestSignalsThatDoNotCome(t *testing.T) {
	asked := make(stops, 2)
	hurry(asked)()
	if len(asked) != 0 {
		t.Error("asked to stop without a signal")
	}
}
