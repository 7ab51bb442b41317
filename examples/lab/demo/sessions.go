package demo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"migrationsensor/examples/lab/app"
)

const (
	// typing is how often a line is typed in the ssh session.
	typing = 50 * time.Millisecond
	// downloadName is the download's at the origin.
	downloadName = "demo"
	// begunAt is how much has come of both when they count as begun.
	begunAt = 10
)

// sessions are connections that live as long as the run: an ssh at a terminal and a download, both by unmodified programs.
type sessions struct {
	noSSH  string // why there is no ssh, in words
	typist *app.Typist
	reader *app.Reader
	stream finisher // what serves the download
	ends   []func() // of programs and servers that are still there at the end, the last first

	screen   io.ReadWriter      // the ssh's
	stop     context.CancelFunc // the typing
	running  sync.WaitGroup
	finished bool

	served, got         [sha256.Size]byte
	servedN, gotN       int64
	sshErr, downloadErr error // how they ended
}

// finisher ends a download that was begun and says what was served of it: *app.Stream, where it runs in this process.
type finisher interface {
	Finish(name string, limit time.Duration) (digest [sha256.Size]byte, n int64, err error)
}

// download runs a program that writes what it gets to reader, until the origin ends it.
func (s *sessions) download(program func() error) {
	s.running.Go(func() {
		if err := program(); err != nil {
			s.downloadErr = fmt.Errorf("the download: %w", err)
		}
	})
}

// ssh types at the screen of an ssh until it is told to stop, and ends the session as a user does.
func (s *sessions) ssh(ctx context.Context, screen io.ReadWriter, wait func() error) {
	s.typist, s.screen = app.NewTypist(), screen
	ctx, s.stop = context.WithCancel(ctx)
	s.running.Go(func() { _ = s.typist.Watch(screen) }) // a terminal whose program has ended gives an error
	s.running.Go(func() {
		typed := s.typist.Type(ctx, screen, typing)
		_, eof := io.WriteString(screen, "\x04")
		if err := errors.Join(typed, eof, wait()); err != nil {
			s.sshErr = fmt.Errorf("ssh: %w", err)
		}
	})
}

// begun reports whether both have been going for a moment.
func (s *sessions) begun() (bool, error) {
	lines := begunAt
	if s.typist != nil {
		_, lines, _ = s.typist.Counts()
	}
	return lines >= begunAt && s.reader.Count() >= begunAt, fmt.Errorf("%d lines echoed, %d reads", lines, s.reader.Count())
}

// finish ends both cleanly, if they still live, and keeps what came of them.
func (s *sessions) finish() error {
	if s.finished {
		return nil
	}
	s.finished = true
	var once sync.Once
	end := func() {
		once.Do(func() {
			for i := range s.ends {
				s.ends[len(s.ends)-1-i]()
			}
		})
	}
	limit := time.AfterFunc(20*time.Second, end)
	if s.stop != nil {
		s.stop()
	}
	var err error
	if s.stream != nil {
		s.served, s.servedN, err = s.stream.Finish(downloadName, 15*time.Second)
	}
	s.running.Wait()
	s.got, s.gotN = s.reader.Sum()
	limit.Stop()
	end()
	return err
}
