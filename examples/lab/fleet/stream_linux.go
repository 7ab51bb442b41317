package fleet

import (
	"net"
	"net/http"
	"time"

	"migrationsensor/examples/lab/app"
)

// StreamEvery is the rhythm of a download without an end.
const StreamEvery = 10 * time.Millisecond

// newStream serves 2 MB/s.
func newStream() *app.Stream { return &app.Stream{Every: StreamEvery, Piece: 20 << 10} }

func (o *Origin) serveStream(l net.Listener) { _ = http.Serve(l, o.Stream) }
