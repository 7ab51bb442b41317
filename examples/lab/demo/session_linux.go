package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
)

// sessions begins an ssh at a terminal, Debian's, and a download by curl.
func (w *kernelWorld) sessions(ctx context.Context) (*sessions, error) {
	s := &sessions{stream: w.Origin.Stream, reader: app.NewReader()}
	if err := w.beginDownload(s); err != nil {
		return s, err
	}
	err := w.beginSSH(ctx, s)
	if errors.Is(err, fleet.ErrNoSSH) {
		s.noSSH, err = err.Error(), nil
	}
	return s, err
}

func (w *kernelWorld) beginDownload(s *sessions) error {
	curl, err := exec.LookPath("curl")
	at, _ := lab.P1.Port(lab.StreamPort)
	url := fmt.Sprintf("http://%s/%s", at, downloadName)
	cmd := exec.Command(curl, "-q", "-sS", "-N", "--noproxy", "*", url)
	if err != nil { // ms-lab's own client
		cmd = exec.Command(w.Lab(), "fetch", "--endless", url)
	}
	told := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = s.reader, told
	if err := w.World.Client.Start(cmd); err != nil {
		return fmt.Errorf("start the download: %w", err)
	}
	s.ends = append(s.ends, func() { _ = cmd.Process.Kill() }) // it has ended, mostly
	s.download(func() error {
		err := cmd.Wait()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(told.String()))
		}
		return err
	})
	return nil
}

func (w *kernelWorld) beginSSH(ctx context.Context, s *sessions) error {
	debian, err := w.NewSSH(ctx)
	if err != nil {
		return err
	}
	origin, _ := lab.BackOrigin.Port(lab.OriginSSH)
	if err := debian.Serve(w.World.Origin, "sshd", origin); err != nil {
		return err
	}
	err = w.Wait(ctx, 10*time.Second, "sshd listens", func() (bool, error) {
		c, err := w.World.Origin.Dial(ctx, "tcp", origin.String())
		if err == nil {
			c.Close()
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	near, far, err := app.Terminal()
	if err != nil {
		return err
	}
	defer far.Close()
	// What is typed is echoed by the far end's terminal; cat only keeps it open.
	args := append([]string{"-tt"}, debian.Args([]string{"Hostname=" + lab.P1.V4.String(), fmt.Sprintf("Port=%d", lab.SSHPort)}, "echo "+app.Ready+"; cat >/dev/null")...)
	cmd := exec.Command(debian.Program, args...)
	cmd.Env = append(os.Environ(), "SHELL=/bin/sh", "TERM=dumb")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := w.World.Client.Start(cmd); err != nil {
		return errors.Join(fmt.Errorf("start ssh: %w", err), near.Close())
	}
	s.ends = append(s.ends, func() {
		_ = cmd.Process.Kill() // it has ended, mostly
		_ = near.Close()
	})
	s.ssh(ctx, near, cmd.Wait)
	return nil
}
