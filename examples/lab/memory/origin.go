package memory

import (
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/netstack/memnet"
)

// origin is the protected server, unmodified: HTTP with the paper's file, and echo. The site is a server of the same
// kind that nobody protects.
type origin struct {
	file   []byte
	digest [sha256.Size]byte
	served sync.WaitGroup
	close  []func() error

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

func serveOrigin(at, site *memnet.Host) (*origin, error) {
	o := &origin{file: fleet.MakeFile(), conns: map[net.Conn]struct{}{}}
	o.digest = sha256.Sum256(o.file)
	web4, web6 := lab.BackOrigin.Port(lab.OriginWeb)
	echo4, echo6 := lab.BackOrigin.Port(lab.OriginEcho)
	site4, site6 := lab.Site.Port(lab.WebPort)
	for _, s := range []struct {
		host  *memnet.Host
		at    netip.AddrPort
		serve func(net.Listener)
	}{
		{at, web4, o.web}, {at, web6, o.web}, {at, echo4, o.echo}, {at, echo6, o.echo}, {site, site4, o.web}, {site, site6, o.web},
	} {
		l, err := s.host.Listen(s.at)
		if err != nil {
			return nil, errors.Join(err, o.Close())
		}
		o.atEnd(l.Close)
		o.served.Go(func() { s.serve(l) })
	}
	return o, nil
}

// atEnd is for Close.
func (o *origin) atEnd(end func() error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.close = append(o.close, end)
}

func (o *origin) web(l net.Listener) {
	srv := http.Server{Handler: fleet.Web(o.file)}
	o.atEnd(srv.Close)
	_ = srv.Serve(l) // until Close
}

func (o *origin) echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if !o.take(c) {
			c.Close()
			return
		}
		o.served.Go(func() {
			defer func() {
				c.Close()
				o.mu.Lock()
				defer o.mu.Unlock()
				delete(o.conns, c)
			}()
			_, _ = io.Copy(c, c) // its client sees what happened
		})
	}
}

// take notes a connection; false: the servers end.
func (o *origin) take(c net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.conns[c] = struct{}{}
	}
	return !o.closed
}

// Close ends the servers and waits for them.
func (o *origin) Close() error {
	o.mu.Lock()
	o.closed = true
	ends := slices.Clone(o.close)
	for c := range o.conns {
		ends = append(ends, c.Close)
	}
	o.mu.Unlock()
	for _, end := range ends {
		_ = end() // a listener of a server that is closed is closed already
	}
	o.served.Wait()
	return nil
}
