package link

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"migrationsensor/proto"
)

func TestLink(t *testing.T) {
	f := newFleet(t, "lab")
	seen := make(chan proto.Identity, 2)
	n := f.node(func(n *node) {
		n.Data = func(_ context.Context, l *Link, _ proto.Verified) { seen <- l.Peer; io.Copy(l, l) }
	})
	creds, id := f.agent()
	for _, keyed := range []bool{false, true} {
		d := &Dialer{Creds: creds, KeyedSYN: keyed}
		l, err := d.Dial(t.Context(), n.target(id), proto.KindData, n.id)
		if err != nil {
			t.Fatalf("keyed %v: %v", keyed, err)
		}
		ping(t, l)
		if l.Peer.Node != n.id || l.RTT() <= 0 {
			t.Errorf("got peer %v, rtt %v", l.Peer, l.RTT())
		}
		if got := <-seen; got.Agent != id || len(got.Groups) != 1 {
			t.Errorf("node saw %v, want agent %s with its groups", got, id)
		}
		live := n.Links()
		if len(live) != 1 || live[0].Agent != id || live[0].Kind != proto.KindData ||
			live[0].Addr != addrPort(l.LocalAddr()) || live[0].Local != n.at {
			t.Errorf("live links got %v", live)
		}
		l.Close()
		until(t, "the link is forgotten", func() bool { return len(n.Links()) == 0 })
	}
}

// recorder notes each write of a connection.
type recorder struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	r.writes = append(r.writes, append([]byte(nil), b...))
	r.mu.Unlock()
	return r.Conn.Write(b)
}

func TestFirstFlightIsOneSmallWrite(t *testing.T) {
	f := newFleet(t, "lab")
	n := f.node(nil)
	creds, id := f.agent()
	for _, kind := range []proto.Kind{proto.KindControl, proto.KindData, proto.KindEnrol} {
		var rec *recorder
		d := &Dialer{Creds: creds, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			rec = &recorder{Conn: c}
			return rec, err
		}}
		l, err := d.Dial(t.Context(), n.target(id), kind, n.id)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		first := rec.writes[0]
		t.Logf("%s: first flight %d bytes", kind, len(first))
		if len(first) > proto.FirstFlightMax || len(first) <= proto.PreambleLen || first[proto.PreambleLen] != recordHandshake {
			t.Errorf("%s: first write of %d bytes, want preamble and ClientHello in at most %d", kind, len(first), proto.FirstFlightMax)
		}
		if hello := first[proto.PreambleLen:]; int(hello[3])<<8|int(hello[4]) != len(hello)-5 {
			t.Errorf("%s: the ClientHello is not whole in the first write", kind)
		}
	}
}

func TestPeerMustBeWhoWasDialled(t *testing.T) {
	f, other := newFleet(t, "lab"), newFleet(t, "other")
	creds, id := f.agent()
	twin := newFleet(t, "lab") // another CA of the same name
	for _, c := range []struct {
		rule string
		edit func(n *node)
		kind proto.Kind
	}{
		{"another node's certificate", func(n *node) {
			n.Creds = f.issue(proto.Identity{Roles: []proto.Role{proto.RoleEdge}, Node: proto.NewNodeID()})
		}, proto.KindControl},
		{"an agent's certificate", func(n *node) { n.Creds, _ = f.agent() }, proto.KindControl},
		{"role anchor on a control link", func(n *node) {
			n.Creds = f.issue(proto.Identity{Roles: []proto.Role{proto.RoleAnchor}, Node: n.id})
		}, proto.KindControl},
		{"role signer on a data link", func(n *node) {
			n.Creds = f.issue(proto.Identity{Roles: []proto.Role{proto.RoleSigner}, Node: n.id})
		}, proto.KindData},
		{"another fleet", func(n *node) {
			n.Creds = other.issue(proto.Identity{Roles: []proto.Role{proto.RoleEdge}, Node: n.id})
		}, proto.KindControl},
		{"another CA", func(n *node) {
			n.Creds = twin.issue(proto.Identity{Roles: []proto.Role{proto.RoleEdge}, Node: n.id})
		}, proto.KindControl},
	} {
		n := f.node(c.edit)
		l, err := (&Dialer{Creds: creds}).Dial(t.Context(), n.target(id), c.kind, n.id)
		if err == nil {
			l.Close()
			t.Errorf("%s: the agent accepted it", c.rule)
		}
	}
	n := f.node(func(n *node) { n.Creds = f.issue(proto.Identity{Roles: []proto.Role{proto.RoleAnchor}, Node: n.id}) })
	l, err := (&Dialer{Creds: creds}).Dial(t.Context(), n.target(id), proto.KindData, n.id)
	if err != nil {
		t.Fatalf("role anchor on a data link: %v", err)
	}
	l.Close()
}

func TestAgentMustBeWhoThePreambleNames(t *testing.T) {
	f, other := newFleet(t, "lab"), newFleet(t, "other")
	n := f.node(nil)
	mine, id := f.agent()
	foreign, _ := other.agent()
	foreign.CA, foreign.Fleet = f.ca, f.name
	someone, _ := f.agent()
	edge := f.issue(proto.Identity{Roles: []proto.Role{proto.RoleEdge}, Node: proto.NewNodeID()})
	none := Credentials{CA: f.ca}
	for rule, creds := range map[string]Credentials{"another agent": someone, "another fleet": foreign, "a node": edge, "no certificate": none} {
		before := n.Stats().TLSFailed
		l, err := (&Dialer{Creds: creds}).Dial(t.Context(), n.target(id), proto.KindControl, n.id)
		if err == nil {
			l.SetDeadline(time.Now().Add(patience))
			if _, err := l.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: the node accepted it: %v", rule, err)
			}
			l.Close()
		}
		until(t, rule+" is refused", func() bool { return n.Stats().TLSFailed > before })
	}
	l, err := (&Dialer{Creds: mine}).Dial(t.Context(), n.target(id), proto.KindControl, n.id)
	if err != nil {
		t.Fatal(err)
	}
	ping(t, l)
	l.Close()
}

func TestEnrolPinsTheCA(t *testing.T) {
	f := newFleet(t, "lab")
	n := f.node(nil)
	token := proto.NewTokenID()
	d := &Dialer{Creds: Credentials{CAHash: proto.CAHash(f.ca)}}
	l, err := d.Dial(t.Context(), n.target(token), proto.KindEnrol, n.id)
	if err != nil {
		t.Fatal(err)
	}
	ping(t, l)
	l.Close()
	d = &Dialer{Creds: Credentials{CAHash: proto.CAHash(newFleet(t, "lab").ca)}}
	if _, err = d.Dial(t.Context(), n.target(token), proto.KindEnrol, n.id); !errors.Is(err, ErrPeer) {
		t.Errorf("another CA's hash: got %v, want %v", err, ErrPeer)
	}
}

func TestSealedReplies(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	for _, want := range []proto.Reply{
		{Kind: proto.ReplyRetry, After: 2 * time.Second},
		{Kind: proto.ReplyBusy, After: time.Second},
		{Kind: proto.ReplyReject, Code: proto.RejectRevoked},
	} {
		n := f.node(func(n *node) {
			n.Decide = func(proto.Verified, netip.AddrPort) *proto.Reply { return &want }
		})
		_, path, err := (&Dialer{Creds: creds}).Follow(t.Context(), n.target(id), proto.KindControl)
		var se *SealedError
		if !errors.As(err, &se) || se.Reply.Kind != want.Kind || se.Reply.After != want.After || se.Reply.Code != want.Code {
			t.Errorf("got %v, want %v", err, want)
			continue
		}
		if se.Reply.Client.Addr() != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("client as seen: got %v", se.Reply.Client)
		}
		if len(path) != 1 || strings.Contains(err.Error(), "%!") {
			t.Errorf("path %v, sentence %q", path, err)
		}
	}
}

func TestRevoked(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	var gone atomic.Bool
	n := f.node(func(n *node) { n.Revoked = func(a proto.AgentID) bool { return gone.Load() && a == id } })
	d := &Dialer{Creds: creds}
	l, err := d.Dial(t.Context(), n.target(id), proto.KindControl, n.id)
	if err != nil {
		t.Fatal(err)
	}
	ping(t, l)
	gone.Store(true)
	if got := n.Close(id); got != 1 {
		t.Errorf("closed %d links, want 1", got)
	}
	l.SetDeadline(time.Now().Add(patience))
	if _, err := l.Read(make([]byte, 1)); err == nil {
		t.Error("the link of a revoked agent lives")
	}
	l.Close()
	var se *SealedError
	if _, err = d.Dial(t.Context(), n.target(id), proto.KindControl, n.id); !errors.As(err, &se) || se.Reply.Code != proto.RejectRevoked {
		t.Errorf("got %v, want REJECT(revoked)", err)
	}
}

func TestAnswersThatAreNotOurs(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	forged := func(c net.Conn) {
		b := make([]byte, proto.SealedLen)
		b[0] = proto.SealedFirst
		c.Write(b)
	}
	for _, x := range []struct {
		name   string
		answer func(net.Conn)
		want   error
	}{
		{"another protocol", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, ErrGarbage},
		{"forged sealed reply", forged, ErrGarbage},
		{"sealed reply cut off", func(c net.Conn) { c.Write([]byte{proto.SealedFirst, 1, 2}) }, ErrGarbage},
		{"closed without a word", func(net.Conn) {}, ErrSilent},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.ReadFull(c, make([]byte, 200))
				x.answer(c)
				c.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, c)
				c.Close()
			}
		}()
		node := proto.NewNodeID()
		at := addrPort(l.Addr())
		tgt := proto.Target{Addr4: at.Addr(), Port: at.Port(), Node: node, Keys: proto.Secret{}.Admission(id)}
		const once = 2*minRedial - 1 // the next dial would be later
		if _, err := (&Dialer{Creds: creds, Timeout: once}).Dial(t.Context(), tgt, proto.KindControl, node); !errors.Is(err, x.want) {
			t.Errorf("%s: got %v, want %v", x.name, err, x.want)
		}
		l.Close()
		<-done
	}
}

func TestSilenceIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := addrPort(l.Addr())
	tgt := proto.Target{Addr4: at.Addr(), Port: at.Port(), Node: proto.NewNodeID()}
	began := time.Now()
	_, err = (&Dialer{Timeout: 50 * time.Millisecond}).Dial(t.Context(), tgt, proto.KindControl, tgt.Node)
	if !errors.Is(err, ErrSilent) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > patience/2 {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
}
