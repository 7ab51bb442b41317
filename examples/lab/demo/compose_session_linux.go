package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/container"
)

// sessions begins an ssh and a download in the container app, which has the client's network and knows nothing of an agent.
func (w *composeWorld) sessions(ctx context.Context) (*sessions, error) {
	s := &sessions{stream: composeStream{w}, reader: app.NewReader()}
	at, _ := lab.P1.Port(lab.StreamPort)
	download, told := container.Attach("app", "ms-lab", "fetch", "--endless", fmt.Sprintf("http://%s/%s", at, downloadName)), &strings.Builder{}
	download.Stdout, download.Stderr = s.reader, told
	if err := download.Start(); err != nil {
		return s, fmt.Errorf("start the download: %w", err)
	}
	s.ends = append(s.ends, func() { _ = download.Process.Kill() }) // it has ended, mostly
	s.download(func() error { return with(told, download.Wait()) })

	shell, said := container.Attach("app", "ms-lab", "ssh", lab.P1.V4.String()), &strings.Builder{}
	shell.Stderr = said
	in, err := shell.StdinPipe()
	if err != nil {
		return s, err
	}
	// Not StdoutPipe: Wait closes that one, maybe before all is read.
	out, far := io.Pipe()
	shell.Stdout = far
	if err := shell.Start(); err != nil {
		return s, fmt.Errorf("start ssh: %w", err)
	}
	s.ends = append(s.ends, func() { kill(shell) })
	s.ssh(ctx, terminal{out, in}, func() error {
		err := shell.Wait()
		far.Close()
		return with(said, err)
	})
	return s, nil
}

type terminal struct {
	io.Reader
	io.Writer
}

func kill(cmd *exec.Cmd) { _ = cmd.Process.Kill() } // it has ended, mostly

// with adds what a program said to how it ended.
func with(said *strings.Builder, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// composeStream has the origin in its container end a download.
type composeStream struct{ w *composeWorld }

func (s composeStream) Finish(name string, limit time.Duration) (digest [sha256.Size]byte, n int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var f container.Finished
	if err := s.w.Call(ctx, "origin", "Finish", name, &f); err != nil {
		return digest, 0, err
	}
	if got, err := hex.Decode(digest[:], []byte(f.Digest)); err != nil || got != len(digest) {
		return digest, 0, fmt.Errorf("the origin's digest %q: %w", f.Digest, err)
	}
	return digest, f.Bytes, nil
}
