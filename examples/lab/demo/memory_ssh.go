package demo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"migrationsensor/examples/lab/app"
)

// sshServer is an ssh server with one kind of session: a terminal that echoes what is typed, as a kernel's does, until Ctrl-D.
type sshServer struct {
	l          net.Listener
	host, user ssh.Signer
	cfg        ssh.ServerConfig
	running    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  []net.Conn
}

var errStranger = errors.New("this key is nobody's here")

// newSSHServer serves with keys of its own, until close.
func newSSHServer(l net.Listener) (*sshServer, error) {
	s := &sshServer{l: l}
	for _, to := range []*ssh.Signer{&s.host, &s.user} {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		if *to, err = ssh.NewSignerFromKey(key); err != nil {
			return nil, err
		}
	}
	s.cfg.PublicKeyCallback = func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), s.user.PublicKey().Marshal()) {
			return nil, errStranger
		}
		return nil, nil
	}
	s.cfg.AddHostKey(s.host)
	s.running.Go(s.accept)
	return s, nil
}

// client logs in over a connection, which it owns if it returns no error.
func (s *sshServer) client(ctx context.Context, c net.Conn, addr string) (*ssh.Client, error) {
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	conn, chans, reqs, err := ssh.NewClientConn(c, addr, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.user)}, HostKeyCallback: ssh.FixedHostKey(s.host.PublicKey()),
	})
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(conn, chans, reqs), nil
}

func (s *sshServer) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			c.Close()
		}
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		s.running.Go(func() { s.serve(c) })
	}
}

// close ends it and waits.
func (s *sshServer) close() {
	s.mu.Lock()
	s.closed = true
	for _, c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.l.Close()
	s.running.Wait()
}

func (s *sshServer) serve(c net.Conn) {
	defer c.Close()
	conn, chans, reqs, err := ssh.NewServerConn(c, &s.cfg)
	if err != nil {
		return
	}
	defer conn.Close()
	s.running.Go(func() { ssh.DiscardRequests(reqs) })
	for ch := range chans {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.UnknownChannelType, "sessions only") // its end shows
			continue
		}
		ch, reqs, err := ch.Accept()
		if err != nil {
			return
		}
		s.running.Go(func() { s.session(ch, reqs) })
	}
}

// session runs the terminal when it was asked for one and a shell.
func (s *sshServer) session(ch ssh.Channel, reqs <-chan *ssh.Request) {
	terminal := false
	for r := range reqs {
		ok := false
		switch r.Type {
		case "pty-req":
			ok, terminal = true, true
		case "shell":
			ok = terminal
		}
		_ = r.Reply(ok, nil) // its end shows
		if ok && r.Type == "shell" {
			s.running.Go(func() { terminalEcho(ch) })
		}
	}
}

// terminalEcho is the far end's terminal in canonical mode with somebody behind it who reads and says nothing.
func terminalEcho(ch ssh.Channel) {
	defer ch.Close()
	if _, err := ch.Write([]byte(app.Ready + "\r\n")); err != nil {
		return
	}
	b := make([]byte, 4096)
	for {
		n, err := ch.Read(b)
		typed, _, ended := bytes.Cut(b[:n], []byte{4}) // Ctrl-D
		if _, werr := ch.Write(bytes.ReplaceAll(typed, []byte("\n"), []byte("\r\n"))); err != nil || werr != nil {
			return
		}
		if ended {
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{})) // its end shows
			return
		}
	}
}
