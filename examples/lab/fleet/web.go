package fleet

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// A download of /slow takes about ten seconds, so that it outlives its proxy.
const (
	slowTick  = 50 * time.Millisecond
	slowChunk = FileSize / 200
)

// MakeFile makes the file that every origin of the lab serves.
func MakeFile() []byte {
	file := make([]byte, FileSize)
	rand.NewChaCha8([32]byte{'7', '6', '0', 'K', 'B'}).Read(file)
	return file
}

// Web serves a file: at /slow little by little, at every other path at once.
func Web(file []byte) http.Handler {
	head := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(file)))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		head(w)
		_, _ = w.Write(file) // a client that went away is counted where it is measured
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		head(w)
		tick := time.NewTicker(slowTick)
		defer tick.Stop()
		for left := file; len(left) > 0; {
			n := min(len(left), slowChunk)
			if _, err := w.Write(left[:n]); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			left = left[n:]
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	return mux
}
