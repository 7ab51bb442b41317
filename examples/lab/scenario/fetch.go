package scenario

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	"migrationsensor/examples/lab/fleet"
)

// Fetch fetches a path of the origin by a new connection of an application on a machine. Both labs measure alike; the
// times of a download that is slow on purpose are not compared with others.
func Fetch(ctx context.Context, w World, machine string, at netip.AddrPort, path string, limit time.Duration) fleet.Sample {
	s := fleet.Sample{Start: time.Now()}
	if err := fetch(ctx, w, machine, at, path, limit, &s); err != nil {
		s.Err = err.Error()
	}
	s.Total = time.Since(s.Start)
	return s
}

func fetch(ctx context.Context, w World, machine string, at netip.AddrPort, path string, limit time.Duration, s *fleet.Sample) error {
	dialCtx, cancel := context.WithTimeout(ctx, fleet.ConnectLimit)
	defer cancel()
	c, err := w.Dial(dialCtx, machine, at)
	if err != nil {
		return err
	}
	defer c.Close()
	s.Connect, s.Connected = time.Since(s.Start), true
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if err := c.SetDeadline(s.Start.Add(limit)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, at); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body := fleet.NewBody()
	_, err = io.Copy(body, res.Body)
	s.Whole = err == nil && res.StatusCode == http.StatusOK && body.Whole()
	s.Wrong = s.Whole && !body.Is(w.Digest())
	return err
}
