package link

import (
	"math"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/proto"
)

const (
	notSentLowat = 128 << 10 // so that small frames don't wait behind megabytes in the kernel
	userTimeout  = 10 * time.Second
	relayTimeout = 30 * time.Second
	deferAccept  = 2 // seconds; as long as a preamble may take
	// linkMSS is the most that a segment of a link carries, in both directions: 1,280 bytes with the headers of IPv6, which
	// every path takes. So a path that loses longer packets without a word (F32) is none. Ours.
	linkMSS = 1220
)

// canKey: a SYN may carry data here (TCP_FASTOPEN_CONNECT with TCP_FASTOPEN_NO_COOKIE).
const canKey = true

// prepare sets what must be set before connect, and says whether the SYN will be keyed. Each option is an optimisation:
// a kernel without it only sends one packet more, or needs the path to say how long packets may be.
func prepare(c syscall.RawConn, keyed bool) (will bool) {
	_ = c.Control(func(fd uintptr) {
		// The handshake's ACK waits for the first flight: one segment, cookie and preamble together.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, linkMSS)
		will = keyed && unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1) == nil &&
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1) == nil
	})
	return will
}

// connected reports whether a connection whose SYN carried data got its SYN-ACK, and lives.
func connected(c net.Conn) (yes bool) {
	option(c, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		yes = err == nil && info.State != unix.BPF_TCP_SYN_SENT && info.State != unix.BPF_TCP_CLOSE
	})
	return yes
}

func option(c net.Conn, set func(fd int)) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	return err == nil && rc.Control(func(fd uintptr) { set(int(fd)) }) == nil
}

// tune sets what an established link wants; it goes on without.
func tune(c net.Conn, kind proto.Kind) {
	option(c, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
		if kind == proto.KindControl {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		}
	})
}

// tuneRelay sets what both connections of a relayed link want, and the anchor's end of it. Whoever waits to write on
// one hears nothing of the other, so a peer that takes nothing for long must end it: no end of ours does that while it
// lives, but through a slow line the window may be shut for seconds.
func tuneRelay(c net.Conn) {
	option(c, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(relayTimeout.Milliseconds()))
	})
}

// scarce reports whether half of the descriptors that this process may have are in use: the kernel gives the lowest
// free number, so a new connection's number is how many there are at least.
func scarce(c net.Conn) bool {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return false
	}
	number := uint64(0)
	option(c, func(fd int) { number = uint64(fd) })
	return number >= limit.Cur/2
}

// kernelRTT is the kernel's smoothed round trip.
func kernelRTT(c net.Conn) (rtt time.Duration, ok bool) {
	asked := option(c, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		ok = err == nil && info.Rtt > 0
		if ok {
			rtt = time.Duration(info.Rtt) * time.Microsecond
		}
	})
	return rtt, asked && ok
}

// kernelMinRTT is the shortest round trip of the last minutes, as the kernel keeps it; zero: unknown.
func kernelMinRTT(c net.Conn) (rtt time.Duration) {
	option(c, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.Min_rtt < math.MaxUint32 {
			rtt = time.Duration(info.Min_rtt) * time.Microsecond
		}
	})
	return rtt
}

// WasReset reports whether a connection is closed in both directions, as after RST. The kernel
// reports a reset once; when the writer was told, the reader sees an end of file that is none.
func WasReset(c net.Conn) bool {
	reset := false
	option(c, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		reset = err == nil && info.State == unix.BPF_TCP_CLOSE
	})
	return reset
}

// deferring lets the kernel keep connections that say nothing.
func deferring(l net.Listener) {
	sc, ok := l.(syscall.Conn)
	if !ok {
		return
	}
	if rc, err := sc.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, deferAccept)
		})
	}
}

// unread asks how many bytes lie in the socket.
func unread(c net.Conn) bool {
	n := 0
	option(c, func(fd int) { n, _ = unix.IoctlGetInt(fd, unix.TIOCINQ) }) // 0 where it fails
	return n > 0
}
