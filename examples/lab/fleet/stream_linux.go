package fleet

import (
	"net"
	"net/http"
)

func (o *Origin) serveStream(l net.Listener) { _ = http.Serve(l, o.Stream) }
