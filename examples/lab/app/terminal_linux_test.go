package app

import (
	"context"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestTypistAtATerminal types to a program at a terminal that echoes.
func TestTypistAtATerminal(t *testing.T) {
	near, far, err := Terminal()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	cmd := exec.Command("sh", "-c", "echo "+Ready+"; cat >/dev/null")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	far.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	y := NewTypist()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		_ = y.Watch(near) // a terminal whose program has ended gives an error
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, seen, _ := y.Counts(); seen >= 5 {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if err := y.Type(ctx, near, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if _, err := near.WriteString("\x04"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	<-watched
	if typed, seen, wrong := y.Counts(); typed != seen || seen < 5 || wrong != "" {
		t.Errorf("%d typed, %d seen, %q", typed, seen, wrong)
	}
}
