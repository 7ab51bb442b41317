package demo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
)

// fetcher fetches the file by an unmodified application: curl, or ms-lab's own client where there
// is no curl.
type fetcher struct {
	program string
	args    []string
	digest  [sha256.Size]byte
}

func newFetcher(digest [sha256.Size]byte) (*fetcher, error) {
	if curl, err := exec.LookPath("curl"); err == nil {
		// -q: no ~/.curlrc. Times go to standard error, the file to standard output.
		return &fetcher{curl, []string{"-q", "-sS", "--noproxy", "*",
			"--connect-timeout", seconds(fleet.ConnectLimit), "--max-time", seconds(fleet.FetchLimit),
			"-w", "%{stderr}times %{http_code} %{time_connect} %{time_total}\\n"}, digest}, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &fetcher{self, []string{"fetch"}, digest}, nil
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// fetch fetches the file once by a new connection.
func (f *fetcher) fetch(ctx context.Context, ns *kernel.Namespace, from netip.AddrPort) fleet.Sample {
	s := fleet.Sample{Start: time.Now()}
	cmd := exec.CommandContext(ctx, f.program, append(f.args[:len(f.args):len(f.args)], "http://"+from.String()+"/file")...)
	body, told := fleet.NewBody(), &strings.Builder{}
	cmd.Stdout, cmd.Stderr = body, told
	err := ns.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	status := parse(&s, told.String())
	s.Whole = err == nil && status == 200 && body.Whole()
	s.Wrong = s.Whole && !body.Is(f.digest)
	if !s.Whole {
		s.Err = strings.TrimSpace(firstLine(told.String()))
		if err != nil && s.Err == "" {
			s.Err = err.Error()
		}
	}
	return s
}

// parse reads the line of times.
func parse(s *fleet.Sample, told string) (status int) {
	i := strings.LastIndex(told, "times ")
	if i < 0 {
		return 0
	}
	var connect, total float64
	if _, err := fmt.Sscanf(told[i:], "times %d %f %f", &status, &connect, &total); err != nil {
		return 0
	}
	s.Connect = time.Duration(connect * float64(time.Second))
	s.Total = time.Duration(total * float64(time.Second))
	s.Connected = s.Connect > 0
	return status
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// Fetch is `ms-lab fetch`: what curl does above, for machines without it. It returns the line of
// times and leaves the file on standard output.
func Fetch(ctx context.Context, url string, body func([]byte) error) (string, error) {
	rest, ok := strings.CutPrefix(url, "http://")
	host, path, ok2 := strings.Cut(rest, "/")
	at, err := netip.ParseAddrPort(host)
	if !ok || !ok2 || err != nil {
		return "", errors.New("usage: ms-lab fetch http://ADDRESS:PORT/PATH")
	}
	ctx, cancel := context.WithTimeout(ctx, fleet.FetchLimit)
	defer cancel()
	t, err := fleet.Fetch(ctx, at, "/"+path, body)
	return fmt.Sprintf("times %d %f %f\n", t.Status, t.Connect.Seconds(), t.Total.Seconds()), err
}
