package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"migrationsensor/agent"
)

// The child says on its third descriptor, in one line, what became of its start.
const (
	readyEnv     = "MS_AGENT_READY_FD"
	readyPrefix  = "ready "
	failedPrefix = "failed "
	maxReport    = 16 << 10
)

// inheritedReady is the pipe to the parent, nil in a process that was not started by detach.
func inheritedReady() io.WriteCloser {
	if os.Getenv(readyEnv) != "3" {
		return nil
	}
	os.Unsetenv(readyEnv) // not for children of ours
	closeOnExec(3)
	return os.NewFile(3, "ready")
}

// detach starts this program again in a session of its own and returns when that one is ready, or with the reason
// why it is not. The token goes through a pipe, never through the arguments.
func detach(ctx context.Context, cfg agent.Config, c *upCmd, out io.Writer) error {
	if err := canDetach(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	args := []string{"up", "--config", c.Config, "--detach", "--log-format", cfg.LogFormat}
	if cfg.Token != "" {
		args = append(args, "--token", "-")
	}
	if c.JoinWait > 0 {
		args = append(args, "--join-wait", c.JoinWait.String())
	}
	if c.LogFile != "" {
		args = append(args, "--log-file", c.LogFile)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stdin = strings.NewReader(cfg.Token + "\n")
	ownSession(cmd)
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(os.Interrupt) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(r, maxReport)).ReadString('\n')
	if reason, ok := strings.CutPrefix(line, failedPrefix); ok {
		return errors.New(strings.TrimSpace(reason))
	}
	summary, ok := strings.CutPrefix(line, readyPrefix)
	if !ok {
		return fmt.Errorf("the agent in the background ended before it was ready: %w (--log-file FILE keeps its log)", err)
	}
	fmt.Fprintf(out, "%s, process %d\n", strings.TrimSpace(summary), cmd.Process.Pid)
	return nil
}
