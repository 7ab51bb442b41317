package paper

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

func TestPeaceIsTwoHandshakesWithP1(t *testing.T) {
	w := newWorld(t)
	p1 := startProxy(t, w.p1, forwarderAt(P1, p1At))
	c, told, err := w.dial(t, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if told.Transferred || told.To != p1At || told.Spoke {
		t.Errorf("told %+v, want P1 again", told)
	}
	if told.First <= 0 || told.Wait <= 0 || told.Second <= 0 || told.Total() < told.Wait {
		t.Errorf("times of the steps: %+v", told)
	}
	if err := echo(c); err != nil {
		t.Error(err)
	}
	n := p1.stop().Forwarder
	if n.Accepted != 2 || n.Empty != 1 || n.In == 0 || n.In != n.Out {
		t.Errorf("P1 counted %+v, want two connections, one of them empty", n)
	}
}

func TestAttackedClientIsTransferredToP2(t *testing.T) {
	w := newWorld(t)
	p2 := startProxy(t, w.p2, forwarderAt(P2, p2At))
	checker := startProxy(t, w.attacked, checkerWith(1))
	w.attack(t)
	c, told, err := w.dial(t, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if !told.Transferred || told.To != p2At || told.Word == (Word{}) {
		t.Fatalf("told %+v, want P2", told)
	}
	if err := echo(c); err != nil {
		t.Error(err)
	}
	got := checker.stop().Checker
	if got.SYNs != 1 || got.Answered != 1 || got.ACKs != 1 || got.Approved != 1 || got.Strange != 0 || got.Unsent != 0 {
		t.Errorf("the checker counted %+v", got)
	}
	n := p2.stop()
	if n.Admission.Ratified != 1 || n.Forwarder.Accepted != 1 || n.Forwarder.Refused != 0 {
		t.Errorf("P2 counted %+v, %+v", n.Admission, n.Forwarder)
	}
}

func TestUnsampledClientFailsWithinItsBound(t *testing.T) {
	w := newWorld(t)
	checker := startProxy(t, w.attacked, checkerWith(0))
	w.attack(t)
	if _, told, err := w.dial(t, 10*time.Second); !errors.Is(err, syscall.ETIMEDOUT) || told.To.IsValid() {
		t.Errorf("got %+v, %v, want a timeout in the first handshake", told, err)
	}
	if n := checker.stop().Checker; n.SYNs == 0 || n.Unsampled != n.SYNs || n.Answered != 0 {
		t.Errorf("the checker counted %+v, want none answered", n)
	}
}

func TestP2RefusesWhomNobodyRatified(t *testing.T) {
	w := newWorld(t)
	p2 := startProxy(t, w.p2, forwarderAt(P2, p2At))
	c, err := w.client.Dial(t.Context(), "tcp", p2At.String())
	if err == nil { // the kernel accepted; P2 looked then
		err = echo(c)
		c.Close()
	}
	if err == nil {
		t.Error("a client that nobody ratified was served")
	}
	if n := p2.stop().Forwarder; n.Refused != 1 || n.In+n.Out != 0 {
		t.Errorf("P2 counted %+v, want one refusal", n)
	}
}

// TestClientWithoutTheKey takes the notification for bytes of a server that speaks first.
func TestClientWithoutTheKeyStaysAtP1(t *testing.T) {
	w := newWorld(t)
	startProxy(t, w.p2, forwarderAt(P2, p2At))
	c := checkerWith(1)
	c.Assumed.Key = Key{0xff}
	startProxy(t, w.attacked, c)
	w.attack(t)
	if _, told, err := w.dial(t, 10*time.Second); err != nil || told.Transferred || !told.Spoke || told.To != p1At {
		t.Errorf("got %+v, %v, want P1 again", told, err)
	}
}

func TestResetOfTheOriginReachesTheClient(t *testing.T) {
	w := newWorld(t)
	l, err := w.router.Listen("tcp", "198.18.80.30:8008")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	startProxy(t, w.p1, Config{Role: Plain, Forwards: []Forward{{p1At, at}}})
	c, err := w.client.Dial(t.Context(), "tcp", p1At.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	reset(o.(*net.TCPConn))
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client read %d, %v, want a reset", n, err)
	}
}
