package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
)

// sessions begins an ssh at a terminal, by golang.org/x/crypto/ssh, and a download by net/http. Neither knows of us: they dial
// P1's address on the client's machine, and its routes lead into the agent's TUN.
func (w *memoryWorld) sessions(ctx context.Context) (*sessions, error) {
	s := &sessions{reader: app.NewReader()}
	if err := w.beginDownload(s); err != nil {
		return s, err
	}
	return s, w.beginSSH(ctx, s)
}

func (w *memoryWorld) beginDownload(s *sessions) error {
	at, _ := lab.BackOrigin.Port(lab.OriginStream)
	l, err := w.Network().Host("origin").Listen(at)
	if err != nil {
		return err
	}
	stream := fleet.NewStream()
	if w.light {
		stream.Piece = 1 << 10
	}
	s.stream = stream
	server, served := http.Server{Handler: stream}, make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // until it is closed
	}()
	s.ends = append(s.ends, func() {
		_ = server.Close() // its listener's, which has none
		<-served
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		to, _ := lab.P1.Port(lab.StreamPort)
		return w.Dial(ctx, "client", to)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	ctx, cancel := context.WithCancel(context.Background())
	s.ends = append(s.ends, cancel)
	to, _ := lab.P1.Port(lab.StreamPort)
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://%s/%s", to, downloadName), nil)
	if err != nil {
		return err
	}
	s.download(func() error {
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.Copy(s.reader, res.Body)
		return err
	})
	return nil
}

func (w *memoryWorld) beginSSH(ctx context.Context, s *sessions) error {
	at, _ := lab.BackOrigin.Port(lab.OriginSSH)
	l, err := w.Network().Host("origin").Listen(at)
	if err != nil {
		return err
	}
	server, err := app.NewSSHServer(l, false)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s.ends = append(s.ends, server.Close)
	to, _ := lab.P1.Port(lab.SSHPort)
	c, err := w.Dial(ctx, "client", to)
	if err != nil {
		return fmt.Errorf("dial the ssh server: %w", err)
	}
	client, err := server.Client(ctx, c, to.String())
	if err != nil {
		return errors.Join(fmt.Errorf("ssh: %w", err), c.Close())
	}
	s.ends = append(s.ends, func() { _ = client.Close() }) // it has ended, mostly
	screen, wait, err := app.Shell(client)
	if err != nil {
		return fmt.Errorf("ssh: %w", err)
	}
	s.ssh(ctx, screen, wait)
	return nil
}
