package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"migrationsensor/proto"
)

// knows lists where an agent holds a trace of a hidden edge: its state directory, its structures, what it says of itself,
// and every byte that has come to it, on the wire and (as its edges said it) inside TLS.
func (r *running) knows(w *wires, said *dump, e *testEdge) (where []string) {
	r.t.Helper()
	addr4 := e.addr.Addr().As4()
	t := e.target(r.enrolled().id.Agent)
	traces := map[string][]byte{
		"node id": e.id[:], "node id in hex": []byte(e.id.String()), "address and port": []byte(e.addr.String()),
		"port in JSON": fmt.Appendf(nil, `"Port":%d,`, e.addr.Port()),
		"key":          t.Keys.K[:], "tag key": t.Keys.Tag[:], "handle": t.Keys.Handle[:],
		"target on the wire": append(append(addr4[:], make([]byte, 16)...), byte(e.addr.Port()>>8), byte(e.addr.Port())),
	}
	look := func(place string, b []byte) {
		for what, trace := range traces {
			if bytes.Contains(b, trace) {
				where = append(where, place+": "+what)
			}
		}
	}
	err := filepath.WalkDir(r.cfg.State, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		look(path, b)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	var memory strings.Builder
	memory.WriteString(fmt.Sprintf("%+v %+v %v", r.enr.catalogue, r.enr.Current, r.named))
	for _, k := range r.enr.Keys {
		memory.WriteString(fmt.Sprintf("%v", k.Node))
		look("memory", k.K)
	}
	for tt := range r.tethers {
		tt.mu.Lock()
		memory.WriteString(fmt.Sprintf("%v %+v %+v", tt.anchor, tt.order, tt.lost))
		for _, d := range tt.links {
			memory.WriteString(fmt.Sprintf("%v %v", d.cand.Node, d.cand.Addrs()))
		}
		tt.mu.Unlock()
	}
	r.mu.Unlock()
	look("memory", []byte(memory.String()))
	status, err := json.Marshal(r.Status())
	if err != nil {
		r.t.Fatal(err)
	}
	look("status", status)
	w.mu.Lock()
	look("received", w.received.Bytes())
	w.mu.Unlock()
	look("received inside TLS", said.bytes())
	return where
}

// TestNoStandbyIsKnownBeforeItsTime: an agent learns a hidden edge by the MIGRATE or TRANSFER that sends it there, and
// nothing of it before; nor of any other.
func TestNoStandbyIsKnownBeforeItsTime(t *testing.T) {
	f := newFleet(t, "fleet")
	p1, p2, p3 := f.edge(false), f.edge(true), f.edge(true)
	p4 := f.edge(false) // a second entry
	f.anchor()
	w, said := newWires(), &f.said
	r := f.on(w, func(*Agent) {})
	unknown := func(when string, hidden ...*testEdge) {
		t.Helper()
		for _, e := range hidden {
			if where := r.knows(w, said, e); len(where) > 0 {
				t.Errorf("%s: a standby is known: %q", when, where)
			}
		}
	}
	echo(t, r.mustDial(), "x")
	r.eventually("control links", func() bool { return p1.links() == 1 && r.Status().Second != nil })
	id := r.enrolled().id.Agent
	keys := f.keys(id)
	p1.say(&keys, false)
	p1.say(&proto.CatalogueMsg{Doc: f.newCatalogue(3, protected)}, false)
	r.eventually("the new catalogue", r.event("catalogue", "version 3"))
	unknown("in peace", p2, p3)
	r.eventually("the second entry knows that its link stands by", func() bool { return p4.standBy() == 1 })
	if p4.isCurrent() || !p1.isCurrent() {
		t.Errorf("current at P1 %v, at the second entry %v: attacked, it would name a standby", p1.isCurrent(), p4.isCurrent())
	}
	p1.migrate(r, 1, p2)
	r.eventually("at P2", r.at(p2))
	if p4.isCurrent() {
		t.Error("the second entry was told that it is the current one")
	}
	if where := r.knows(w, said, p2); len(where) < 3 {
		t.Errorf("the search does not find the edge that is in use: only %q", where)
	}
	unknown("at P2", p3)
	p2.transferTo(p3, id)
	p2.acc.CloseAll()
	r.eventually("at P3", r.at(p3))
	if where := r.knows(w, said, p3); len(where) < 2 {
		t.Errorf("the search does not find the edge that is in use: only %q", where)
	}
}

// dump keeps bytes.
type dump struct {
	mu sync.Mutex
	b  []byte
}

func (d *dump) add(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.b = append(d.b, b...)
}

func (d *dump) bytes() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.b)
}
