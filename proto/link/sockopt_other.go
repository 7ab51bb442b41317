//go:build !linux

package link

import (
	"net"
	"syscall"
	"time"

	"migrationsensor/proto"
)

// Elsewhere a pure ACK goes before the first flight; the proxy's SYN Checker expects that too. And the length of segments
// can't be bounded before connect, which is when the other end is told of it: macOS takes TCP_MAXSEG only to make it
// smaller for what is sent, Windows has no such option. There a link needs a path that says what it can't carry.
func prepare(syscall.RawConn, bool) bool { return false }

const canKey = false

func connected(net.Conn) bool { return true }

func tune(net.Conn, proto.Kind) {}

func tuneRelay(net.Conn) {}

func scarce(net.Conn) bool { return false }

func kernelRTT(net.Conn) (time.Duration, bool) { return 0, false }

func kernelMinRTT(net.Conn) time.Duration { return 0 }

// WasReset can't be asked here: a reset that the writer was told of shows when it next writes.
func WasReset(net.Conn) bool { return false }

func deferring(net.Listener) {}

func unread(net.Conn) bool { return false }
