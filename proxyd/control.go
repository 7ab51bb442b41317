package proxyd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrNotRunning says that nobody answers at the control socket.
var ErrNotRunning = errors.New("proxyd is not running")

const (
	controlTimeout = 5 * time.Second
	maxMoveRequest = 4 << 20
)

// ListenControl opens the control socket, for the owner of the process only. It removes one that a
// killed process left behind, and refuses one that answers.
func ListenControl(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		if errors.Is(err, syscall.EROFS) {
			return nil, fmt.Errorf("control socket: %w; in compose.yaml add: tmpfs: [\"/run\"]", err)
		}
		return nil, fmt.Errorf("control socket: %w; set `socket` to a file you may write", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("control socket %s: another proxyd runs; stop it with `proxyd down`, or set another `socket` and `state` for this one", path)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("control socket %s: there is a file of another kind; remove it or set another `socket`", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w; set `socket` to a file you may write", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// Controlled is what the control socket commands. *Proxy is the real one.
type Controlled interface {
	Status() Status
	Agents() []AgentStatus
	Move(ctx context.Context, req MoveRequest, report func(MoveProgress)) error
	Undrain(ctx context.Context) error
	Stop() // must not block
}

// ServeControl answers on the control socket until ctx is done, with JSON: GET /status and /agents;
// POST /move with a MoveRequest, answered by one MoveProgress a line; POST /undrain; POST /down. What p
// refuses is 409 with the sentence. It closes the listener, which removes the socket.
func ServeControl(ctx context.Context, l net.Listener, p Controlled) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.Status()) })
	mux.HandleFunc("GET /agents", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.Agents()) })
	mux.HandleFunc("POST /move", func(w http.ResponseWriter, r *http.Request) { serveMove(w, r, p) })
	mux.HandleFunc("POST /undrain", func(w http.ResponseWriter, r *http.Request) {
		if err := p.Undrain(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		p.Stop()
	})
	srv := http.Server{
		Handler: mux, ReadTimeout: controlTimeout, WriteTimeout: controlTimeout, MaxHeaderBytes: 4096,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the reader went away: nobody to tell
}

// serveMove streams the progress of a planned move. It goes on if its reader goes away; only the
// watching ends.
func serveMove(w http.ResponseWriter, r *http.Request, p Controlled) {
	var req MoveRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, maxMoveRequest)).Decode(&req); err != nil {
		http.Error(w, fmt.Sprintf("request: %v", err), http.StatusBadRequest)
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // what waits for the reader to go away is no read that is late
	began := false
	report := func(m MoveProgress) {
		began = true
		_ = rc.SetWriteDeadline(time.Now().Add(controlTimeout))
		_ = json.NewEncoder(w).Encode(m) // the reader went away: ctx ends
		_ = rc.Flush()
	}
	err := p.Move(r.Context(), req, report)
	switch {
	case err != nil && began:
		report(MoveProgress{Over: true, Error: err.Error()})
	case err != nil:
		http.Error(w, err.Error(), http.StatusConflict)
	}
}

// ControlStatus asks the proxyd that listens at path for its status.
func ControlStatus(ctx context.Context, path string) (Status, error) {
	var st Status
	body, err := control(ctx, path, http.MethodGet, "/status")
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(body, &st); err != nil {
		return st, fmt.Errorf("status from %s: %w", path, err)
	}
	return st, nil
}

// ControlDown asks the proxyd that listens at path to stop, and returns when its socket is gone.
func ControlDown(ctx context.Context, path string) error {
	if _, err := control(ctx, path, http.MethodPost, "/down"); err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.DialTimeout("unix", path, time.Second)
		if err != nil {
			return nil
		}
		c.Close()
		select {
		case <-ctx.Done():
			return fmt.Errorf("proxyd was asked to stop and still runs: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func control(ctx context.Context, path, method, target string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	resp, err := controlAsk(ctx, path, method, target, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return body, nil
}

// controlAsk sends a request; its caller closes the body. A refusal is an error with the proxy's own
// sentence.
func controlAsk(ctx context.Context, path, method, target string, body io.Reader) (*http.Response, error) {
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://proxyd"+target, body)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nobody answers at %s; start it with `proxyd run`, or name its configuration with --config", ErrNotRunning, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("control socket %s: %w; run this as the user that runs proxyd", path, err)
	case err != nil:
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	case resp.StatusCode/100 == 2:
		return resp, nil
	}
	defer resp.Body.Close()
	why, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch {
	case err != nil:
		return nil, fmt.Errorf("control socket %s: %s: %w", path, resp.Status, err)
	case resp.StatusCode == http.StatusConflict:
		return nil, errors.New(strings.TrimSpace(string(why)))
	}
	return nil, fmt.Errorf("control socket %s: %s: %s", path, resp.Status, why)
}

// ControlAgents asks the proxyd that listens at path for its agents.
func ControlAgents(ctx context.Context, path string) ([]AgentStatus, error) {
	body, err := control(ctx, path, http.MethodGet, "/agents")
	if err != nil {
		return nil, err
	}
	var out []AgentStatus
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, fmt.Errorf("agents from %s: %w", path, err)
	}
	return out, nil
}

// ControlUndrain asks the proxyd that listens at path to serve again.
func ControlUndrain(ctx context.Context, path string) error {
	_, err := control(ctx, path, http.MethodPost, "/undrain")
	return err
}

// ControlMove asks the proxyd that listens at path for a planned move and returns its last progress;
// each one is reported before.
func ControlMove(ctx context.Context, path string, req MoveRequest, report func(MoveProgress)) (last MoveProgress, err error) {
	b, err := json.Marshal(req)
	if err != nil {
		return last, err
	}
	resp, err := controlAsk(ctx, path, http.MethodPost, "/move", bytes.NewReader(b))
	if err != nil {
		return last, err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); !last.Over; report(last) {
		if err := dec.Decode(&last); err != nil {
			return last, fmt.Errorf("the move goes on, but proxyd at %s tells no more of it: %w", path, err)
		}
	}
	if last.Error != "" {
		return last, errors.New(last.Error)
	}
	return last, nil
}
