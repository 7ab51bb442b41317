package packethandler

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// isReset reports whether the connection is closed in both directions, as after RST.
func isReset(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	reset := false
	err = rc.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		reset = err == nil && info.State == unix.BPF_TCP_CLOSE
	})
	return err == nil && reset
}

// resetOnClose makes the origin see a reset, not a clean end, when a dial is given up after the
// kernel finished its handshake and before the flow owns the connection.
func resetOnClose(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	return errors.Join(err, set)
}
