package session

import (
	"encoding/hex"
	"io"
	"testing"

	"migrationsensor/proto"
)

// TestGoldenFrames fixes the frames that are no messages; proto's golden file has the others.
func TestGoldenFrames(t *testing.T) {
	for name, tc := range map[string]struct {
		frame []byte
		want  string
	}{
		"DATA":           {data(0x01020304, 0x1000, []byte("hi")), "130000020102030400000000000010006869"},
		"ACK":            {appendAck(nil, 1, 0, 0x1000, 0x11000), "140000080000000100000000000010000000000000011000"},
		"ACK of the FIN": {appendAck(nil, 1, flagFin, 0x1000, 0x11000), "140200080000000100000000000010000000000000011000"},
		"FIN":            {header(nil, proto.TypeFin, 0, 1, 0x1000), "15000000000000010000000000001000"},
		"END":            {header(nil, proto.TypeEnd, 0, 0, 0), "08000000000000000000000000000000"},
		"RST":            {header(nil, proto.TypeRst, 0, 1, 0x1000), "16000000000000010000000000001000"},
	} {
		if got := hex.EncodeToString(tc.frame); got != tc.want {
			t.Errorf("%s is %s, want %s", name, got, tc.want)
		}
	}
}

// TestEndsOnTheWire: what the session itself sends at a stream's end.
func TestEndsOnTheWire(t *testing.T) {
	w, st := serverWith(t, Config{})
	st.Write([]byte("bye"))
	st.CloseWrite()
	w.want("the end comes in the record of the last bytes", "DATA 1 at 0, 3", "FIN 1 at 3")
	w.mustSend(appendAck(nil, 1, flagFin, 3, 100))
	w.mustSend(header(nil, proto.TypeFin, 0, 1, 0))
	w.want("the peer's end is acknowledged", "ACK 1 at 0, credit 65536")
	if n := w.s.Streams(); n != 0 {
		t.Errorf("%d streams: this one is over", n)
	}
	if n, err := st.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read after it: %d, %v; want the end", n, err)
	}
	w.mustSend(header(nil, proto.TypeFin, 0, 1, 0))
	w.want("an end that comes again is acknowledged again: the first ACK may have been lost with a link", "ACK 1 at 0, credit 0")
}
