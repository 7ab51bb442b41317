package container

import (
	"context"
	"crypto/sha256"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"migrationsensor/examples/lab/fleet"
)

// digest is the file's.
var digest = sync.OnceValue(func() [sha256.Size]byte { return sha256.Sum256(fleet.MakeFile()) })

// fetch fetches the file as an application that knows of nothing, by blocking system calls.
func fetch(ctx context.Context, at netip.AddrPort) fleet.Sample {
	ctx, cancel := context.WithTimeout(ctx, fleet.FetchLimit)
	defer cancel()
	s, body := fleet.Sample{Start: time.Now()}, fleet.NewBody()
	t, err := fleet.Fetch(ctx, at, "/file", func(b []byte) error { _, err := body.Write(b); return err })
	s.Connect, s.Total, s.Connected = t.Connect, t.Total, t.Connect > 0
	s.Whole = err == nil && t.Status == http.StatusOK && body.Whole()
	s.Wrong = s.Whole && !body.Is(digest())
	if err != nil {
		s.Err = err.Error()
	}
	return s
}
