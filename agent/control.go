package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrRunning means that another agent answers on the socket.
var ErrRunning = errors.New("an agent is running already: `ms-agent status` shows it, `ms-agent down` stops it")

// maxControl bounds an answer on the control socket.
const maxControl = 4 << 20

// listenControl opens the control socket. It takes the place of one that a killed agent left, never of a live one.
func listenControl(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("socket %s: %w", path, ErrRunning)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		if errors.Is(err, syscall.EROFS) {
			return nil, fmt.Errorf("directory of the control socket: %w; in compose.yaml add: tmpfs: [\"/run\"]", err)
		}
		return nil, fmt.Errorf("directory of the control socket: %w", err)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s exists and is no socket: remove it, or set socket in the configuration", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the stale control socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// serveControl answers GET /status, POST /forget and POST /down until ctx is done.
func serveControl(ctx context.Context, l net.Listener, status func() Status, forget func(context.Context) error, down func()) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(status()) // the asker has gone: nobody to tell
	})
	mux.HandleFunc("POST /forget", func(w http.ResponseWriter, r *http.Request) {
		if err := forget(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		down()
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(sctx) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}

// Control talks to a running agent over its socket.
type Control struct{ Socket string }

func (c Control) do(ctx context.Context, method, path string, into any) error {
	hc := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://ms-agent"+path, nil)
	if err != nil {
		return err
	}
	resp, err := hc.Do(req)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("socket %s: %w (hint: run it as the user that runs the agent, mostly root)", c.Socket, os.ErrPermission)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("the agent at %s does not answer: %w", c.Socket, context.DeadlineExceeded)
		}
		return fmt.Errorf("no agent is running at %s (start one with `ms-agent up`)", c.Socket)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // a part of it will do
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(why)))
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxControl)).Decode(into)
}

// Status asks for the agent's status.
func (c Control) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.do(ctx, http.MethodGet, "/status", &s)
}

// Forget has the agent forget the proxy that it was sent to; see [Agent.Forget].
func (c Control) Forget(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/forget", nil)
}

// Down stops the agent and returns when it has undone everything it did to the machine.
func (c Control) Down(ctx context.Context) error {
	if err := c.do(ctx, http.MethodPost, "/down", nil); err != nil {
		return err
	}
	for { // the socket goes last
		if _, err := os.Lstat(c.Socket); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent at %s has not ended yet: %w", c.Socket, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
