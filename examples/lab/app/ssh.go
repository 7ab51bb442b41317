package app

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHServer is an ssh server with one kind of session: a terminal that echoes what is typed, as a kernel's does, until Ctrl-D.
type SSHServer struct {
	l          net.Listener
	host, user ssh.Signer
	cfg        ssh.ServerConfig
	running    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  []net.Conn
}

var errStranger = errors.New("this key is nobody's here")

// NewSSHServer serves with keys of its own, until Close. An open one lets everybody in; else only Client's key is let in.
func NewSSHServer(l net.Listener, open bool) (*SSHServer, error) {
	s := &SSHServer{l: l}
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
	s.cfg.NoClientAuth = open
	s.cfg.AddHostKey(s.host)
	s.running.Go(s.accept)
	return s, nil
}

// Client logs in over a connection, which it owns if it returns no error.
func (s *SSHServer) Client(ctx context.Context, c net.Conn, addr string) (*ssh.Client, error) {
	return SSHClient(ctx, c, addr, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.user)}, HostKeyCallback: ssh.FixedHostKey(s.host.PublicKey()),
	})
}

// SSHClient logs in over a connection, which it owns if it returns no error.
func SSHClient(ctx context.Context, c net.Conn, addr string, cfg *ssh.ClientConfig) (*ssh.Client, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, chans, reqs, err := ssh.NewClientConn(c, addr, cfg)
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(conn, chans, reqs), nil
}

func (s *SSHServer) accept() {
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

// Close ends it and waits.
func (s *SSHServer) Close() {
	s.mu.Lock()
	s.closed = true
	for _, c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.l.Close()
	s.running.Wait()
}

func (s *SSHServer) serve(c net.Conn) {
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
func (s *SSHServer) session(ch ssh.Channel, reqs <-chan *ssh.Request) {
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
	if _, err := ch.Write([]byte(Ready + "\r\n")); err != nil {
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

// Shell opens a session at a terminal; wait is for its end.
func Shell(c *ssh.Client) (screen io.ReadWriter, wait func() error, err error) {
	session, err := c.NewSession()
	if err != nil {
		return nil, nil, err
	}
	in, inErr := session.StdinPipe()
	out, outErr := session.StdoutPipe()
	err = errors.Join(inErr, outErr, session.RequestPty("dumb", 24, 80, ssh.TerminalModes{ssh.ECHO: 1}))
	if err == nil {
		err = session.Shell()
	}
	return struct {
		io.Reader
		io.Writer
	}{out, in}, session.Wait, err
}
