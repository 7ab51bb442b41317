package netstack_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/netstack"
	"migrationsensor/netstack/netstacktest"
)

// kernel is a namespace with a TUN, whose applications use the kernel's own sockets.
type kernel struct {
	ns    *netstacktest.Namespace
	stack *netstack.Stack
	conns chan netstack.Conn
}

const tunName = "ms0"

// Ports of every address behind the TUN, by what becomes of a connect().
const (
	portAccept = 1000 + iota
	portRefuse
	portUnreachable
	portDrop
	portSlow
)

func newKernel(t *testing.T, open func() (netstack.Device, error)) *kernel {
	t.Helper()
	k := &kernel{ns: netstacktest.NewNamespace(t), conns: make(chan netstack.Conn, 64)}
	var dev netstack.Device
	k.ns.Must(func() (err error) {
		if dev, err = open(); err != nil {
			return err
		}
		return errors.Join(
			netstacktest.Up(tunName, "198.18.0.1/32", "2001:2::1/128"),
			netstacktest.Route("198.18.7.0/24", tunName, ""),
			netstacktest.Route("2001:2::7:0/112", tunName, ""),
		)
	})
	s, err := netstack.New(netstack.Config{Device: dev, Handler: k.handle})
	if err != nil {
		t.Fatal(err)
	}
	k.stack = s
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("netstack stopped: %v", err)
		}
	})
	return k
}

func openTUN() (netstack.Device, error) { return netstack.OpenTUN(tunName, 1500) }

func (k *kernel) handle(f *netstack.Flow) {
	switch f.Dst().Port() {
	case portRefuse:
		f.Refuse()
	case portUnreachable:
		f.Unreachable()
	case portDrop:
		f.Drop()
	case portSlow:
		select {
		case <-time.After(1200 * time.Millisecond): // longer than the kernel waits before it sends the SYN again
		case <-f.Context().Done():
			return
		}
		fallthrough
	default:
		if c, err := f.Accept(); err == nil {
			k.conns <- c
		}
	}
}

func (k *kernel) dial(d net.Dialer, to netip.Addr, port uint16) (*net.TCPConn, error) {
	d.SetMultipathTCP(false)
	var c net.Conn
	err := k.ns.Enter(func() (err error) {
		c, err = d.Dial("tcp", netip.AddrPortFrom(to, port).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (k *kernel) connect(t *testing.T, to netip.Addr) (app *net.TCPConn, flow netstack.Conn) {
	t.Helper()
	app, err := k.dial(net.Dialer{Timeout: 5 * time.Second}, to, portAccept)
	if err != nil {
		t.Fatal(err)
	}
	flow = receive(t, "connection", k.conns)
	t.Cleanup(func() { _ = app.Close(); flow.Abort() })
	for _, c := range []net.Conn{app, flow} {
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return app, flow
}

func eachKernel(t *testing.T, f func(t *testing.T, k *kernel, to netip.Addr)) {
	k := newKernel(t, openTUN)
	eachVersion(t, func(t *testing.T, to netip.AddrPort) { f(t, k, to.Addr()) })
	if st := k.stack.Stats(); st.ChecksumErrors != 0 || st.WriteErrors != 0 {
		t.Errorf("checksum errors %d, write errors %d; want none", st.ChecksumErrors, st.WriteErrors)
	}
}

func TestKernelConnectTellsTheTruth(t *testing.T) {
	eachKernel(t, func(t *testing.T, k *kernel, to netip.Addr) {
		for name, row := range map[string]struct {
			port    uint16
			timeout time.Duration
			want    error
		}{
			"refused":     {portRefuse, 5 * time.Second, syscall.ECONNREFUSED},
			"unreachable": {portUnreachable, 5 * time.Second, syscall.EHOSTUNREACH},
			"timeout":     {portDrop, 300 * time.Millisecond, os.ErrDeadlineExceeded},
		} {
			start := time.Now()
			_, err := k.dial(net.Dialer{Timeout: row.timeout}, to, row.port)
			if ne, ok := errors.AsType[net.Error](err); row.want == os.ErrDeadlineExceeded && ok && ne.Timeout() {
				continue
			}
			if !errors.Is(err, row.want) {
				t.Errorf("%s: connect gives %v, want %v", name, err, row.want)
			}
			if took := time.Since(start); took > 500*time.Millisecond {
				t.Errorf("%s: took %v, want at once", name, took)
			}
		}
	})
}

func TestKernelSlowVerdictIsOneFlow(t *testing.T) {
	eachKernel(t, func(t *testing.T, k *kernel, to netip.Addr) {
		before := k.stack.Stats().Flows
		app, err := k.dial(net.Dialer{Timeout: 5 * time.Second}, to, portSlow)
		if err != nil {
			t.Fatal(err)
		}
		defer app.Close()
		receive(t, "connection", k.conns).Abort()
		if got := k.stack.Stats().Flows - before; got != 1 {
			t.Errorf("got %d flows, want 1: the SYN that came again belongs to the first", got)
		}
	})
}

func TestKernelHalfCloseBothWays(t *testing.T) {
	eachKernel(t, func(t *testing.T, k *kernel, to netip.Addr) {
		type half interface {
			net.Conn
			CloseWrite() error
		}
		app, flow := k.connect(t, to)
		app2, flow2 := k.connect(t, to)
		for name, ends := range map[string][2]half{"application first": {app, flow}, "flow first": {flow2, app2}} {
			near, far := ends[0], ends[1]
			mustWrite(t, near, "question")
			if err := near.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
				t.Errorf("%s: far end reads %q, %v", name, got, err)
			}
			mustWrite(t, far, "answer")
			if err := far.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(near); string(got) != "answer" || err != nil {
				t.Errorf("%s: near end reads %q, %v", name, got, err)
			}
			if err := near.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestKernelResetBothWays(t *testing.T) {
	eachKernel(t, func(t *testing.T, k *kernel, to netip.Addr) {
		app, flow := k.connect(t, to)
		flow.Abort()
		if _, err := app.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("application reads after Abort: got %v, want ECONNRESET", err)
		}
		app, flow = k.connect(t, to)
		if err := app.SetLinger(0); err != nil { // Close becomes a reset
			t.Fatal(err)
		}
		if err := app.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := flow.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("flow reads after the application's reset: got %v, want ECONNRESET", err)
		}
	})
}

// An origin that closes first leaves the stack in TIME_WAIT. The application may come back from the same port.
func TestKernelPortIsReusableAfterOriginClosedFirst(t *testing.T) {
	eachKernel(t, func(t *testing.T, k *kernel, to netip.Addr) {
		reuse := net.Dialer{
			Timeout:   5 * time.Second,
			LocalAddr: &net.TCPAddr{Port: 33333},
			Control: func(_, _ string, c syscall.RawConn) (err error) {
				return errors.Join(err, c.Control(func(fd uintptr) {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
				}))
			},
		}
		for i := range 3 {
			start := time.Now()
			var app *net.TCPConn
			eventually(t, "the kernel has forgotten the socket before", func() bool {
				var err error
				if app, err = k.dial(reuse, to, portAccept); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
					t.Fatalf("connect %d from the same port: %v", i, err)
				}
				return err == nil
			})
			if took := time.Since(start); took > 2500*time.Millisecond {
				t.Errorf("connect %d took %v, want at most one or two SYNs more", i, took)
			}
			flow := receive(t, "connection", k.conns)
			if err := flow.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := app.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("application reads %v, want a clean EOF", err)
			}
			if err := app.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestKernelBulkBothWays(t *testing.T) {
	size := 64 << 20
	if raceEnabled {
		size = 1 << 20
	}
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	want := sha256.Sum256(data)
	for name, open := range map[string]func() (netstack.Device, error){
		"offload":          openTUN,
		"no offload":       func() (netstack.Device, error) { return netstack.OpenTUNRung(tunName, 1) },
		"no offload, 1500": func() (netstack.Device, error) { return netstack.OpenTUNRung(tunName, 3) },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, open)
			eachVersion(t, func(t *testing.T, to netip.AddrPort) {
				app, flow := k.connect(t, to.Addr())
				up, down := make(chan error, 1), make(chan error, 1)
				start := time.Now()
				go func() { up <- send(app, data) }()
				checkDigest(t, "upload", flow, size, want)
				mid := time.Now()
				go func() { down <- send(flow, data) }()
				checkDigest(t, "download", app, size, want)
				if err := errors.Join(<-up, <-down); err != nil {
					t.Error(err)
				}
				t.Logf("up %.1f Gbit/s, down %.1f Gbit/s", gbits(size, mid.Sub(start)), gbits(size, time.Since(mid)))
			})
			if st := k.stack.Stats(); st.ChecksumErrors != 0 || st.WriteErrors != 0 {
				t.Errorf("checksum errors %d, write errors %d; want none", st.ChecksumErrors, st.WriteErrors)
			} else {
				t.Logf("%d packets in, %d out, %d retransmitted", st.PacketsIn, st.PacketsOut, st.Retransmits)
			}
		})
	}
}

func gbits(size int, d time.Duration) float64 { return float64(size) * 8 / d.Seconds() / 1e9 }

func send(c interface {
	io.Writer
	CloseWrite() error
}, data []byte) error {
	_, err := c.Write(data)
	return errors.Join(err, c.CloseWrite())
}

func checkDigest(t *testing.T, what string, r io.Reader, size int, want [sha256.Size]byte) {
	t.Helper()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil || n != int64(size) || !bytes.Equal(h.Sum(nil), want[:]) {
		t.Errorf("%s: %d bytes, %v, digest as sent: %v; want all %d", what, n, err, bytes.Equal(h.Sum(nil), want[:]), size)
	}
}

func TestKernelStopResetsApplications(t *testing.T) {
	ns := netstacktest.NewNamespace(t)
	var dev netstack.Device
	ns.Must(func() (err error) {
		if dev, err = openTUN(); err != nil {
			return err
		}
		return errors.Join(netstacktest.Up(tunName, "198.18.0.1/32"), netstacktest.Route("198.18.7.0/24", tunName, ""))
	})
	k := &kernel{ns: ns, conns: make(chan netstack.Conn, 1)}
	s, err := netstack.New(netstack.Config{Device: dev, Handler: k.handle})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	app, _ := k.connect(t, targets["IPv4"].Addr())
	stop()
	if err := receive(t, "end of Run", done); err != nil {
		t.Error(err)
	}
	if _, err := app.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("application reads after the stack stopped: got %v, want ECONNRESET", err)
	}
	ns.Must(func() error {
		if _, err := net.InterfaceByName(tunName); err == nil {
			t.Error("the TUN is still there")
		}
		return nil
	})
}

func TestKernelSaysWhatIsMissing(t *testing.T) {
	ns := netstacktest.NewNamespace(t)
	ns.Must(func() error {
		if _, err := netstack.OpenTUN("a-name-that-is-too-long", 1500); err == nil {
			t.Error("device name of 23 bytes: got nil, want an error")
		}
		d, err := openTUN()
		if err != nil {
			return err
		}
		if _, err := openTUN(); !errors.Is(err, unix.EBUSY) {
			t.Errorf("second device of the same name: got %v, want EBUSY", err)
		}
		return errors.Join(d.Close(), d.Close())
	})
}
