package fleet

import (
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/kernel"
)

// Origin is the protected server, unmodified: HTTP with the file, echo, and downloads that go on until they are told to end. The site is
// a server of the same kind that nobody protects.
type Origin struct {
	Stream    *app.Stream
	file      []byte
	Digest    [sha256.Size]byte
	listeners []net.Listener
}

// ServeOrigin serves both; Close ends it.
func ServeOrigin(w *lab.World) (*Origin, error) {
	o := &Origin{
		file:   make([]byte, FileSize),
		Stream: NewStream(),
	}
	seed := [32]byte{'7', '6', '0', 'K', 'B'}
	rand.NewChaCha8(seed).Read(o.file)
	o.Digest = sha256.Sum256(o.file)
	web4, web6 := lab.BackOrigin.Port(lab.OriginWeb)
	echo4, echo6 := lab.BackOrigin.Port(lab.OriginEcho)
	stream4, stream6 := lab.BackOrigin.Port(lab.OriginStream)
	site4, site6 := lab.Site.Port(lab.WebPort)
	for _, s := range []struct {
		ns    *kernel.Namespace
		at    string
		serve func(net.Listener)
	}{
		{w.Origin, web4.String(), o.serveWeb}, {w.Origin, web6.String(), o.serveWeb},
		{w.Origin, echo4.String(), serveEcho}, {w.Origin, echo6.String(), serveEcho},
		{w.Origin, stream4.String(), o.serveStream}, {w.Origin, stream6.String(), o.serveStream},
		{w.Site, site4.String(), o.serveWeb}, {w.Site, site6.String(), o.serveWeb},
	} {
		l, err := s.ns.Listen("tcp", s.at)
		if err != nil {
			return o, errors.Join(err, o.Close())
		}
		o.listeners = append(o.listeners, l)
		go s.serve(l)
	}
	return o, nil
}

// File is what it serves.
func (o *Origin) File() []byte { return o.file }

func (o *Origin) serveWeb(l net.Listener) {
	_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(o.file)))
		_, _ = w.Write(o.file) // a client that went away is counted where it is measured
	}))
}

func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			// Not splice: that would hold a pipe for each of thousands that are idle.
			_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 4<<10))
		}()
	}
}

// Close ends the servers.
func (o *Origin) Close() error {
	var errs []error
	for _, l := range o.listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
