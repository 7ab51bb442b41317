package link

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/proto"
)

const (
	tcpSYN = 0x02
	tcpPSH = 0x08
	tcpACK = 0x10
)

type segment struct {
	flags byte
	data  int
}

// sniff collects the segments that reach a port of this machine, by a raw socket.
func sniff(t *testing.T, at netip.AddrPort) (stop func() []segment) {
	t.Helper()
	port := at.Port()
	c, err := net.ListenIP("ip4:tcp", &net.IPAddr{IP: at.Addr().AsSlice()})
	if err != nil {
		t.Skipf("a raw socket needs CAP_NET_RAW: %v", err)
	}
	var got []segment
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1<<16); ; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if b[0]>>4 == 4 { // some systems leave the IP header in
				h := int(b[0]&15) * 4
				if n >= h+20 && b[9] == 6 {
					copy(b, b[h:n])
					n -= h
				}
			}
			if n >= 20 && binary.BigEndian.Uint16(b[2:]) == port {
				got = append(got, segment{b[13], n - int(b[12]>>4)*4})
			}
		}
	}()
	return func() []segment {
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		<-done
		c.Close()
		return got
	}
}

// What the SYN Checker lives on: the handshake's ACK and the whole first flight are one segment.
func TestFirstFlightOnTheWire(t *testing.T) {
	f := newFleet(t, "lab")
	creds, id := f.agent()
	n := f.node(nil)
	for _, keyed := range []bool{false, true} {
		stop := sniff(t, n.at)
		l, err := (&Dialer{Creds: creds, KeyedSYN: keyed}).Dial(t.Context(), n.target(id), proto.KindControl, n.id)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		got := stop()
		if len(got) < 2 || got[0].flags&tcpSYN == 0 {
			t.Fatalf("keyed %v: segments %v", keyed, got)
		}
		if has := got[0].data > proto.PreambleLen; has != keyed {
			t.Errorf("keyed %v: SYN carries %d bytes", keyed, got[0].data)
		}
		if s := got[1]; s.flags&(tcpACK|tcpPSH) != tcpACK|tcpPSH || s.data <= proto.PreambleLen || s.data > proto.FirstFlightMax {
			t.Errorf("keyed %v: the segment after the SYN has flags %#x and %d bytes, want ACK with the first flight", keyed, s.flags, s.data)
		}
	}
}

// TestF32SegmentsAreShort: neither end of a link sends a segment longer than every path carries.
func TestF32SegmentsAreShort(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { prepare(c, keyed); return nil }}
		near, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer near.Close()
		if _, err := near.Write([]byte("a first flight")); err != nil { // a keyed SYN goes with it
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		for end, c := range map[string]net.Conn{"agent": near, "edge": far} {
			mss := 0
			option(c, func(fd int) { mss, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
			if err != nil || mss > linkMSS || mss < linkMSS-40 {
				t.Errorf("keyed %v: the %s's segments are of %d bytes, %v; want at most %d", keyed, end, mss, err, linkMSS)
			}
		}
	}
}
