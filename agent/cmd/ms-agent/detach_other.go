//go:build !unix

package main

import (
	"errors"
	"fmt"
	"os/exec"
)

func canDetach() error {
	return fmt.Errorf("--detach: %w on this system (run `ms-agent up` as a service)", errors.ErrUnsupported)
}

func ownSession(*exec.Cmd) {}

func closeOnExec(int) {}
