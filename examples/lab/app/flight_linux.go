package app

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// firstFlight has the handshake's ACK wait for the first flight, as an agent's own sockets do on Linux.
func firstFlight(network, _ string, c syscall.RawConn) error {
	if network == "udp4" || network == "udp6" {
		return nil
	}
	return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) })
}
