//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

func canDetach() error { return nil }

// ownSession keeps the terminal's signals away from the child.
func ownSession(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

func closeOnExec(fd int) { syscall.CloseOnExec(fd) }
