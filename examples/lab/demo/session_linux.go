package demo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
)

// typing is how often a line is typed in the ssh session.
const typing = 50 * time.Millisecond

// sessions are connections that live as long as the run: an ssh at a terminal and a download, both by unmodified programs.
type sessions struct {
	noSSH    string // why there is no ssh, in words
	typist   *app.Typist
	reader   *app.Reader
	finished bool

	ssh, curl *exec.Cmd
	screen    *os.File           // the ssh's
	stop      context.CancelFunc // the typing
	running   sync.WaitGroup
	stream    *app.Stream

	served, got   [sha256.Size]byte
	servedN, gotN int64
	sshErr        error // how they ended
	downloadErr   error
}

// downloadName is the download's at the origin.
const downloadName = "demo"

// newSessions begins both.
func newSessions(ctx context.Context, f *fleet.Fleet) (*sessions, error) {
	s := &sessions{stream: f.Origin.Stream}
	if err := s.beginDownload(f); err != nil {
		return s, err
	}
	err := s.beginSSH(ctx, f)
	if errors.Is(err, fleet.ErrNoSSH) {
		s.noSSH, err = err.Error(), nil
	}
	return s, err
}

func (s *sessions) beginDownload(f *fleet.Fleet) error {
	curl, err := exec.LookPath("curl")
	at, _ := lab.P1.Port(lab.StreamPort)
	url := fmt.Sprintf("http://%s/%s", at, downloadName)
	s.curl = exec.Command(curl, "-q", "-sS", "-N", "--noproxy", "*", url)
	if err != nil { // ms-lab's own client
		s.curl = exec.Command(f.Lab(), "fetch", "--endless", url)
	}
	s.reader = app.NewReader()
	told := &strings.Builder{}
	s.curl.Stdout, s.curl.Stderr = s.reader, told
	if err := f.World.Client.Start(s.curl); err != nil {
		return fmt.Errorf("start the download: %w", err)
	}
	s.running.Go(func() {
		if err := s.curl.Wait(); err != nil {
			s.downloadErr = fmt.Errorf("the download: %w: %s", err, strings.TrimSpace(told.String()))
		}
	})
	return nil
}

func (s *sessions) beginSSH(ctx context.Context, f *fleet.Fleet) error {
	debian, err := f.NewSSH(ctx)
	if err != nil {
		return err
	}
	origin, _ := lab.BackOrigin.Port(lab.OriginSSH)
	if err := debian.Serve(f.World.Origin, "sshd", origin); err != nil {
		return err
	}
	err = fleet.Wait(ctx, 10*time.Second, "sshd listens", f.Children(), func() (bool, error) {
		c, err := f.World.Origin.Dial(ctx, "tcp", origin.String())
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
	s.ssh = exec.Command(debian.Program, args...)
	s.ssh.Env = append(os.Environ(), "SHELL=/bin/sh", "TERM=dumb")
	s.ssh.Stdin, s.ssh.Stdout, s.ssh.Stderr = far, far, far
	s.ssh.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := f.World.Client.Start(s.ssh); err != nil {
		return errors.Join(fmt.Errorf("start ssh: %w", err), near.Close())
	}
	s.screen, s.typist = near, app.NewTypist()
	typing, stop := context.WithCancel(ctx)
	s.stop = stop
	s.running.Go(func() { _ = s.typist.Watch(near) }) // a terminal whose program has ended gives an error
	s.running.Go(func() { s.sshErr = s.session(typing) })
	return nil
}

// session types until it is told to stop, and ends the session as a user does.
func (s *sessions) session(ctx context.Context) error {
	typed := s.typist.Type(ctx, s.screen, typing)
	_, eof := s.screen.WriteString("\x04")
	if err := errors.Join(typed, eof, s.ssh.Wait()); err != nil {
		return fmt.Errorf("ssh: %w", err)
	}
	return nil
}

// begun waits until both have been going for a moment.
func (s *sessions) begun(ctx context.Context, f *fleet.Fleet) error {
	return fleet.Wait(ctx, 15*time.Second, "ssh and the download begin", f.Children(), func() (bool, error) {
		lines := 10
		if s.typist != nil {
			_, lines, _ = s.typist.Counts()
		}
		return lines >= 10 && s.reader.Count() >= 10, fmt.Errorf("%d lines echoed, %d reads", lines, s.reader.Count())
	})
}

// finish ends both cleanly, if they still live, and keeps what came of them.
func (s *sessions) finish() error {
	if s.finished {
		return nil
	}
	s.finished = true
	limit := time.AfterFunc(20*time.Second, s.kill)
	defer limit.Stop()
	if s.stop != nil {
		s.stop()
	}
	var err error
	s.served, s.servedN, err = s.stream.Finish(downloadName, 15*time.Second)
	s.running.Wait()
	s.got, s.gotN = s.reader.Sum()
	if s.screen != nil {
		_ = s.screen.Close() // its program has ended
	}
	return err
}

func (s *sessions) kill() {
	for _, c := range []*exec.Cmd{s.ssh, s.curl} {
		if c != nil && c.Process != nil {
			_ = c.Process.Kill()
		}
	}
}
