package link

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"migrationsensor/proto"
)

func TestProbeTellsWhereToGo(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	elsewhere := proto.Target{Addr4: netip.MustParseAddr("198.18.9.9"), Port: 7443, Node: proto.NewNodeID()}
	for _, tt := range []struct {
		rule   string
		decide *proto.Reply
		want   proto.ReplyKind
	}{
		{"a proxy that serves says go ahead", nil, proto.ReplyGo},
		{"one under attack sends on", &proto.Reply{Kind: proto.ReplyTransfer, Targets: []proto.Target{elsewhere}}, proto.ReplyTransfer},
		{"a full one says so", &proto.Reply{Kind: proto.ReplyBusy, After: time.Second}, proto.ReplyBusy},
	} {
		n := f.node(func(n *node) {
			n.Decide = func(proto.Verified, netip.AddrPort) *proto.Reply { return tt.decide }
		})
		for _, keyed := range []bool{false, true} {
			began := time.Now()
			r, err := (&Dialer{Creds: creds, KeyedSYN: keyed}).Probe(t.Context(), n.target(id))
			if err != nil || r.Kind != tt.want {
				t.Errorf("%s (keyed %v): got %+v, %v", tt.rule, keyed, r, err)
			}
			if took := time.Since(began); took >= preambleTimeout {
				t.Errorf("%s: %v: the proxy waited for a ClientHello, which a probe has not", tt.rule, took)
			}
		}
		if s := n.Stats(); s.Sealed != 2 || s.TLSFailed != 0 || s.Data != 0 || (s.Probes == 2) != (tt.want == proto.ReplyGo) {
			t.Errorf("%s: stats %+v", tt.rule, s)
		}
	}
}

func TestProbeTakesNoOtherAnswer(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(nil)
	for rule, answer := range map[string][]byte{
		"TLS":                   {recordHandshake, 3, 3, 0, 1, 0},
		"a reply of somebody":   make([]byte, proto.SealedLen),
		"a reply that is short": {proto.SealedFirst, proto.Version},
	} {
		d := &Dialer{Creds: creds, Timeout: minRedial, DialContext: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				io.ReadFull(far, make([]byte, proto.PreambleLen))
				far.Write(answer)
			}()
			return near, nil
		}}
		if r, err := d.Probe(t.Context(), n.target(id)); !errors.Is(err, ErrGarbage) {
			t.Errorf("%s: got %+v, %v, want %v", rule, r, err, ErrGarbage)
		}
	}
}

func TestProbeOfSilenceEnds(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(nil)
	d := &Dialer{Creds: creds, Timeout: 20 * time.Millisecond, DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		go io.Copy(io.Discard, far)
		return near, nil
	}}
	if _, err := d.Probe(t.Context(), n.target(id)); !errors.Is(err, ErrSilent) {
		t.Errorf("got %v, want %v", err, ErrSilent)
	}
}

// TestGoAheadIsNoLink: whoever asked for a link and hears "go ahead" has been answered by a proxy that is not right.
func TestGoAheadIsNoLink(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(func(n *node) {
		n.Decide = func(proto.Verified, netip.AddrPort) *proto.Reply { return &proto.Reply{Kind: proto.ReplyGo} }
	})
	_, _, err := (&Dialer{Creds: creds}).Follow(t.Context(), n.target(id), proto.KindData)
	if se := (*SealedError)(nil); !errors.As(err, &se) || se.Reply.Kind != proto.ReplyGo {
		t.Errorf("got %v", err)
	}
}
