package synchecker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrationsensor/proto"
)

// eachProgram runs a test with the packet program in either place.
func eachProgram(t *testing.T, f func(t *testing.T, path Path)) {
	for _, path := range []Path{PathGeneric, PathNative} {
		t.Run(string(path), func(t *testing.T) { f(t, path) })
	}
}

func (l *live) offload() Offload { return l.c.cfg.Port.(Offload) }

func setSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}

// TestKernelPlainCookie: an ordinary client and an ordinary listener, with nothing but the kernel's
// cookie between them, and more data than one window.
func TestKernelPlainCookie(t *testing.T) {
	const port, size = 8081, 4 << 20
	eachProgram(t, func(t *testing.T, path Path) {
		for stamps, scaled := range map[string]bool{"1": false, "2": true} {
			l := newLiveBy(t, path, Defend)
			var listener net.Listener
			l.w.edge.must("listen", func() (err error) {
				err = errors.Join(setSysctl("net/ipv4/tcp_syncookies", "2"), setSysctl("net/ipv4/tcp_timestamps", stamps))
				if err != nil {
					return err
				}
				if listener, err = listenDual(port); err != nil {
					return err
				}
				return l.offload().Gate(Gate{Services: map[netip.AddrPort]Plain{
					netip.AddrPortFrom(wire4, port): PlainCookie, netip.AddrPortFrom(wire6, port): PlainCookie,
				}})
			})
			defer listener.Close()
			go func() {
				for {
					c, err := listener.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						io.Copy(c, c)
					}()
				}
			}()
			for i, to := range []netip.Addr{wire4, wire6} {
				if err := l.echo(netip.AddrPortFrom(to, port), size, scaled); err != nil {
					t.Errorf("tcp_timestamps=%s to %v: %v, %+v", stamps, to, err, l.c.Stats())
				}
				if s := l.c.Stats(); s.PlainAnswered != uint64(i+1) || s.PlainDropped != 0 {
					t.Errorf("after %d clients: %d answered, %d dropped", i+1, s.PlainAnswered, s.PlainDropped)
				}
			}
			// Nobody gets in by an ACK alone.
			p := l.w.open(l.w.client, "eth0", Filter{Addrs: []netip.Addr{client4}, LinkPort: 1})
			if _, err := p.Write([][]byte{packet{src: client4, dst: wire4, dport: port, flags: flagACK, seq: 9, ack: 99}.frame(t)}); err != nil {
				t.Error(err)
			}
			p.Close()
			wait(t, "the forged ACK is dropped", func() bool { return l.c.Stats().PlainDropped == 1 })
		}
	})
}

// listenDual listens for both families with one socket, as Go does where it finds both; a namespace whose
// loopback is down it takes for one without IPv6.
func listenDual(port int) (net.Listener, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	if err := errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0),
		unix.Bind(fd, &unix.SockaddrInet6{Port: port}), unix.Listen(fd, 16)); err != nil {
		return nil, err
	}
	return net.FileListener(file)
}

// echo sends so many bytes and reads them back.
func (l *live) echo(to netip.AddrPort, size int, scaled bool) error {
	var c *net.TCPConn
	if err := l.w.client.do(func() error {
		d := net.Dialer{Timeout: 5 * time.Second}
		d.SetMultipathTCP(false)
		x, err := d.Dial("tcp", to.String())
		if err == nil {
			c = x.(*net.TCPConn)
		}
		return err
	}); err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var info *unix.TCPInfo
	if cerr := rc.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		return errors.Join(cerr, err)
	}
	const timestamps, sack, windowScale = 1, 2, 4
	if got := info.Options&(timestamps|sack|windowScale) == timestamps|sack|windowScale; got != scaled || !scaled && info.Options != 0 {
		return fmt.Errorf("TCP options %x, want all of them: %v", info.Options, scaled)
	}
	out := bytes.Repeat([]byte("migration"), size/9)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(out)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	in, err := io.ReadAll(c)
	if err = errors.Join(err, <-sent); err != nil {
		return fmt.Errorf("%d bytes came back: %w", len(in), err)
	}
	if !bytes.Equal(in, out) {
		return fmt.Errorf("%d bytes came back, not the %d sent", len(in), len(out))
	}
	return nil
}

// listenRaw reads frames from the client's end until stop, which returns them.
func (l *live) listenRaw() (stop func() [][]byte) {
	var fd int
	l.w.client.must("raw socket", func() (err error) {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		return errors.Join(err, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}))
	})
	return func() (frames [][]byte) {
		defer unix.Close(fd)
		for {
			b := make([]byte, 2048)
			n, err := unix.Read(fd, b)
			if err != nil {
				return frames
			}
			frames = append(frames, b[:n])
		}
	}
}

func (l *live) write(frames ...[]byte) {
	l.t.Helper()
	p := l.w.open(l.w.client, "eth0", Filter{Addrs: []netip.Addr{client4}, LinkPort: 1})
	defer p.Close()
	if _, err := p.Write(frames); err != nil {
		l.t.Fatal(err)
	}
}

// TestKernelVLAN: a SYN in a VLAN is answered in it. This kernel may have no VLAN devices, so the frames
// are made by hand.
func TestKernelVLAN(t *testing.T) {
	eachProgram(t, func(t *testing.T, path Path) {
		l := newLiveBy(t, path, Defend)
		p := l.w.open(l.w.client, "eth0", Filter{Addrs: []netip.Addr{client4, client6}, LinkPort: 40000})
		defer p.Close()
		if err := p.Arm(Defend); err != nil { // it sees what the edge answers
			t.Fatal(err)
		}
		if _, err := p.Write([][]byte{packet{src: client4, dst: wire4, vlan: 7, options: linuxOptions}.frame(t),
			packet{src: client6, dst: wire6, vlan: 8}.frame(t)}); err != nil {
			t.Fatal(err)
		}
		defer time.AfterFunc(5*time.Second, func() { p.Close() }).Stop()
		vlans, frames := map[uint32]bool{}, make([]Frame, batch)
		for len(vlans) < 2 {
			n, err := p.Read(frames)
			if err != nil {
				t.Fatalf("answers in VLANs %v only: %v, %+v", vlans, err, l.c.Stats())
			}
			for _, f := range frames[:n] {
				if r := decode(t, slices.Clone(f.Data)); r.SYN && r.ACK {
					vlans[f.VLAN] = true
				}
			}
		}
		if !vlans[etherVLAN<<16|7] || !vlans[etherVLAN<<16|8] {
			t.Errorf("answers in VLANs %v, want 7 and 8", vlans)
		}
	})
}

// TestKernelKeysChange: the program follows the keyring, both ways.
func TestKernelKeysChange(t *testing.T) {
	l := newLiveBy(t, PathGeneric, Defend)
	id := proto.KeyID{Gen: 2, Issuer: 3}
	secret := proto.FleetKey{9}.ProxySecret(l.node, 2)
	sport := uint16(2000)
	keyed := func() bool {
		sport++
		p := proto.Preamble{Kind: proto.KindData, Key: id, Target: l.node, Time: time.Now(), Nonce: proto.NewNonce()}
		before := l.c.Stats()
		l.write(packet{src: client4, dst: wire4, sport: sport, payload: p.Append(nil, secret.Admission(proto.AgentID{byte(sport)}), l.node)}.frame(t))
		wait(t, "the SYN is judged", func() bool { return l.c.Stats().SYNSeen > before.SYNSeen })
		return l.c.Stats().Keyed > before.Keyed
	}
	if keyed() {
		t.Error("a key that nobody gave is known")
	}
	l.c.cfg.Keys.Set(id, secret)
	wait(t, "the new key is known", keyed)
	l.c.cfg.Keys.Delete(id)
	wait(t, "the key is forgotten", func() bool { return !keyed() })
}

// TestKernelDarkIsSilent: whatever a stranger sends to a hidden edge, its line stays quiet.
func TestKernelDarkIsSilent(t *testing.T) {
	eachProgram(t, func(t *testing.T, path Path) {
		l := newLiveBy(t, path, Dark)
		stop := l.listenRaw()
		var frames [][]byte
		for _, port := range []uint16{testPort, 80, 443, 22} {
			frames = append(frames, packet{src: client4, dst: wire4, dport: port}.frame(t),
				packet{src: client6, dst: wire6, dport: port}.frame(t))
		}
		forged := l.preambleAt(proto.KindKnock, 1, time.Now())
		forged[75]++
		frames = append(frames, packet{src: client4, dst: wire4, udp: true, payload: forged}.frame(t),
			packet{src: client4, dst: wire4, udp: true, payload: make([]byte, preambleLen)}.frame(t),
			packet{src: client4, dst: wire4, flags: flagACK, payload: forged}.frame(t))
		l.write(frames...)
		wait(t, "all but the knock with a good tag are dropped, and that is judged", func() bool {
			s := l.c.Stats()
			return s.Frames == uint64(len(frames)) && s.BadMAC == 1
		})
		for _, b := range stop() {
			if b[0]&1 == 0 { // the kernel reports its multicast groups to the link by itself
				t.Errorf("a hidden edge sent %x", b)
			}
		}
	})
}

func TestOpenPathSays(t *testing.T) {
	w := newWire(t)
	f := Filter{Addrs: []netip.Addr{wire4, wire6}, LinkPort: testPort}
	open := func(want Path) (p Port, taken Taken, err error) {
		w.edge.do(func() error {
			p, taken, err = OpenPath("edge0", f, want)
			return nil
		})
		return p, taken, err
	}
	if _, _, err := open("xdp"); err == nil {
		t.Error("took a path that there is not")
	}
	p, taken, err := open(PathNative)
	if err != nil || taken.Path != PathNative || len(taken.Why) != 0 {
		t.Fatalf("native on a veth: %+v, %v", taken, err)
	}
	second, taken, err := open(PathAuto)
	if err != nil || taken.Path != PathPacket || len(taken.Why) != 2 || !strings.Contains(taken.Why[0], "veth") || !strings.Contains(taken.Why[1], "attached already") {
		t.Errorf("auto beside another program: %+v, %v; want packet sockets and why", taken, err)
	} else {
		second.Close()
	}
	if _, _, err := open(PathGeneric); err == nil || !strings.Contains(err.Error(), "attached already") {
		t.Errorf("generic beside another program: %v", err)
	}
	if err := p.Arm(Defend); err == nil {
		t.Error("armed without rules")
	}
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	if err := p.(Offload).Gate(Gate{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Gate of a closed port: %v, want net.ErrClosed", err)
	}
	if id := w.attached(); id != 0 {
		t.Errorf("program %d is attached after Close", id)
	}
	w.client.must("large MTU", func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 9000)
	})
	if _, _, err := open(PathNative); err == nil || !strings.Contains(err.Error(), "MTU") {
		t.Errorf("native where the driver refuses: %v", err)
	}
	p, taken, err = open(PathAuto)
	if err != nil || taken.Path != PathGeneric || len(taken.Why) != 1 {
		t.Fatalf("auto: %+v, %v; want generic and why", taken, err)
	}
	t.Log(taken.Why)
	p.Close()
}

func (w *wire) attached() (id uint32) {
	w.edge.must("link", func() error {
		l, err := netlink.LinkByName("edge0")
		if err == nil && l.Attrs().Xdp != nil {
			id = l.Attrs().Xdp.ProgId
		}
		return err
	})
	return id
}

// TestOpenPathWithoutRights: who may not load programs gets packet sockets, and is told. Without CAP_PERFMON it is the verifier
// who refuses.
func TestOpenPathWithoutRights(t *testing.T) {
	for name, right := range map[string]uint{"CAP_BPF": unix.CAP_BPF, "CAP_PERFMON": unix.CAP_PERFMON} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			w.edge.must("open without "+name, func() error { return openWithout(right, name) })
		})
	}
}

// openWithout takes rights from its thread, which dies with the namespace: so nobody misses them.
func openWithout(right uint, name string) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return err
	}
	for _, c := range []uint{right, unix.CAP_SYS_ADMIN} {
		caps[c/32].Effective &^= 1 << (c % 32)
	}
	if err := unix.Capset(&hdr, &caps[0]); err != nil {
		return err
	}
	p, taken, err := OpenPath("edge0", Filter{Addrs: []netip.Addr{wire4}, LinkPort: testPort}, PathAuto)
	if err != nil {
		return err
	}
	defer p.Close()
	if taken.Path != PathPacket || len(taken.Why) != 2 || !strings.Contains(taken.Why[1], "needs CAP_BPF, CAP_PERFMON") {
		return fmt.Errorf("took %+v, want packet sockets for want of %s", taken, name)
	}
	return nil
}

func TestRulesShowNoSecret(t *testing.T) {
	f := newFixture(t, Defend)
	r := f.c.rules()
	for _, s := range []string{fmt.Sprint(r), fmt.Sprintf("%v %+v %#v", r, r, &r), r.LogValue().String()} {
		if strings.Contains(s, fmt.Sprint(r.jar.k0)) || strings.Contains(s, fmt.Sprintf("%x", r.jar.k0)) || len(s) > 400 {
			t.Errorf("printed: %s", s)
		}
	}
}
