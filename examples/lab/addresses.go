package lab

import "net/netip"

// The lab's addresses. Spoofed sources of a flood come out of FloodSources*, which nobody has.
var (
	Client   = host{netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("2001:2:0:1::1")}
	Fresh    = host{netip.MustParseAddr("198.18.2.1"), netip.MustParseAddr("2001:2:0:2::1")}
	Each     = host{netip.MustParseAddr("198.18.3.1"), netip.MustParseAddr("2001:2:0:3::1")}
	Plain    = host{netip.MustParseAddr("198.18.4.1"), netip.MustParseAddr("2001:2:0:4::1")}
	Attacker = host{netip.MustParseAddr("198.18.9.1"), netip.MustParseAddr("2001:2:0:9::1")}
	Near     = host{netip.MustParseAddr("198.18.6.1"), netip.MustParseAddr("2001:2:0:6::1")} // by Ethernet, in benches
	Site     = host{netip.MustParseAddr("198.18.10.1"), netip.MustParseAddr("2001:2:0:10::1")}

	// The service range: the proxies are in it, the rest is unused.
	P1     = host{netip.MustParseAddr("198.18.72.11"), netip.MustParseAddr("2001:2:0:72::11")}
	P2     = host{netip.MustParseAddr("198.18.72.93"), netip.MustParseAddr("2001:2:0:72::93")}
	P3     = host{netip.MustParseAddr("198.18.72.171"), netip.MustParseAddr("2001:2:0:72::171")}
	E2     = host{netip.MustParseAddr("198.18.72.57"), netip.MustParseAddr("2001:2:0:72::57")} // a second entry, where there is one
	Unused = host{netip.MustParseAddr("198.18.72.200"), netip.MustParseAddr("2001:2:0:72::200")}

	// Proxies of the benches, in the same range: the plain one without SYN cookies, and the paper's own
	// handshake re-created (its attacked P1 answers without its kernel, so it is a machine of its own).
	PlainP1       = host{netip.MustParseAddr("198.18.72.21"), netip.MustParseAddr("2001:2:0:72::21")}
	PlainP2       = host{netip.MustParseAddr("198.18.72.22"), netip.MustParseAddr("2001:2:0:72::22")}
	PaperP1       = host{netip.MustParseAddr("198.18.72.31"), netip.MustParseAddr("2001:2:0:72::31")}
	PaperP2       = host{netip.MustParseAddr("198.18.72.32"), netip.MustParseAddr("2001:2:0:72::32")}
	PaperP3       = host{netip.MustParseAddr("198.18.72.33"), netip.MustParseAddr("2001:2:0:72::33")}
	PaperAttacked = host{netip.MustParseAddr("198.18.72.34"), netip.MustParseAddr("2001:2:0:72::34")}

	// The private backplane.
	BackP1     = host{netip.MustParseAddr("198.18.80.11"), netip.MustParseAddr("2001:2:0:80::11")}
	BackP2     = host{netip.MustParseAddr("198.18.80.12"), netip.MustParseAddr("2001:2:0:80::12")}
	BackP3     = host{netip.MustParseAddr("198.18.80.13"), netip.MustParseAddr("2001:2:0:80::13")}
	BackE2     = host{netip.MustParseAddr("198.18.80.14"), netip.MustParseAddr("2001:2:0:80::14")}
	BackA1     = host{netip.MustParseAddr("198.18.80.15"), netip.MustParseAddr("2001:2:0:80::15")} // an anchor: on the backplane only
	BackSign   = host{netip.MustParseAddr("198.18.80.20"), netip.MustParseAddr("2001:2:0:80::20")}
	BackOrigin = host{netip.MustParseAddr("198.18.80.30"), netip.MustParseAddr("2001:2:0:80::30")}

	BackPlainP1       = host{netip.MustParseAddr("198.18.80.41"), netip.MustParseAddr("2001:2:0:80::41")}
	BackPlainP2       = host{netip.MustParseAddr("198.18.80.42"), netip.MustParseAddr("2001:2:0:80::42")}
	BackPaperP1       = host{netip.MustParseAddr("198.18.80.51"), netip.MustParseAddr("2001:2:0:80::51")}
	BackPaperP2       = host{netip.MustParseAddr("198.18.80.52"), netip.MustParseAddr("2001:2:0:80::52")}
	BackPaperP3       = host{netip.MustParseAddr("198.18.80.53"), netip.MustParseAddr("2001:2:0:80::53")}
	BackPaperAttacked = host{netip.MustParseAddr("198.18.80.54"), netip.MustParseAddr("2001:2:0:80::54")}

	// A machine that stands for many clients, each with an address of its own, and where the client of a test moves to.
	Crowd4 = netip.MustParsePrefix("198.18.32.0/20")
	Roamed = host{netip.MustParseAddr("198.18.5.1"), netip.MustParseAddr("2001:2:0:5::1")}

	FloodSources4 = netip.MustParsePrefix("198.19.0.0/16")
	FloodSources6 = netip.MustParsePrefix("2001:2:0:8000::/49")
)

// The lab's ports. 7443 and 7444 are the fleet's defaults.
const (
	WebPort  = 80   // the service that is attacked, at P1
	EchoPort = 81   // the same origin's echo, at P1
	SSHPort  = 22   // the same origin's sshd, in benches that have one
	LinkPort = 7443 // links of agents, TCP and UDP
	PeerPort = 7444 // peers, on the backplane

	TransferPort = 82 // both directions at once, with digests, at P1
	StreamPort   = 83 // a download that takes as long as it is told, at P1

	RatifyPort = 7445 // the paper's ratification, on the backplane

	OriginWeb  = 8080
	OriginEcho = 8007
	OriginSSH  = 8022

	OriginTransfer = 8009
	OriginStream   = 8088
)

// Uplink is the name of every machine's interface to the internet.
const Uplink = "eth0"

// host is one machine's address in both families.
type host struct{ V4, V6 netip.Addr }

// Port joins both addresses with one port.
func (h host) Port(port uint16) (v4, v6 netip.AddrPort) {
	return netip.AddrPortFrom(h.V4, port), netip.AddrPortFrom(h.V6, port)
}
