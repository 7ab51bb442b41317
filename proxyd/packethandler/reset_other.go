//go:build !linux

package packethandler

import (
	"net"
	"syscall"
)

// isReset can't be asked here: a reset that the writer was told of passes on when it next writes.
func isReset(net.Conn) bool { return false }

// resetOnClose can't be set here before the dial: one given up late ends cleanly.
func resetOnClose(string, string, syscall.RawConn) error { return nil }
