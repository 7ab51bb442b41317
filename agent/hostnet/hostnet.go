// Package hostnet leads the connections to protected proxies into the agent's TUN, and keeps the agent's own
// out of it: the part of the paper's Client Connection Handler (section 3.1) that touches the host's network.
//
// Only TCP from this host to a protected address and port is led into the TUN. Other ports of the same
// address, other protocols and everything else stay as they were; so do connections that were open before.
// On Linux this is policy routing by source, in a table of its own (rules_linux.go says how).
//
// Every change is undone by Close. If the agent dies without Close, a janitor process, started by Open, undoes
// it within milliseconds; if that dies too, the next Open does. Meanwhile the rules lead nowhere and new
// connections go the direct way.
//
// Not captured: applications that bind their source address before connect, and forwarded traffic of
// containers.
package hostnet

import (
	"errors"
	"log/slog"
	"net/netip"
	"syscall"
)

// ErrInUse means that another agent, alive, leads connections into its own device.
var ErrInUse = errors.New("another agent is running")

// Config says which device gets the routes.
type Config struct {
	Device       string     // an existing TUN, as its opener names it
	Addr4, Addr6 netip.Addr // the TUN's own addresses; the zero Addr leaves that IP version out
	StateFile    string     // where the next start finds what a killed one left behind; "" means none
	Log          *slog.Logger
}

// Host is what Open has changed on this machine.
type Host struct{ host }

// Open sweeps what a dead predecessor left, gives the device its addresses and brings it up. Nothing is
// protected yet.
func Open(cfg Config) (*Host, error) { return open(cfg) }

// SetProtected leads TCP to exactly these addresses and ports into the device. It changes only what differs
// from the last call. On error the host may hold a part of the change; calling again repairs that.
func (h *Host) SetProtected(addrs []netip.AddrPort) error { return h.setProtected(addrs) }

// Control keeps a socket out of the device. Every socket that the agent opens needs it (net.Dialer.Control).
func (h *Host) Control(network, address string, c syscall.RawConn) error {
	return h.control(network, address, c)
}

// Close undoes everything that Open and SetProtected did. It is idempotent.
func (h *Host) Close() error { return h.close() }

// Sweep removes what a dead agent with this state file left behind. A live agent's rules stay: [ErrInUse].
func Sweep(stateFile string, log *slog.Logger) error { return sweep(stateFile, log) }

// JanitorMain reports whether this process was started as a janitor; if so it has done its work and main
// returns. Call it first in main.
func JanitorMain() bool { return janitorMain() }
