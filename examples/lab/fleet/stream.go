package fleet

import (
	"time"

	"migrationsensor/examples/lab/app"
)

// StreamEvery is the rhythm of a download without an end.
const StreamEvery = 10 * time.Millisecond

// NewStream serves 2 MB/s.
func NewStream() *app.Stream { return &app.Stream{Every: StreamEvery, Piece: 20 << 10} }
