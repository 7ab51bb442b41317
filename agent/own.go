package agent

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"strings"
)

// ownAddrs lists the machine's gateways and resolvers as far as the system tells. What can't be read is left out.
func ownAddrs() []netip.Addr {
	var own []netip.Addr
	for _, f := range []struct {
		path  string
		parse func(io.Reader) []netip.Addr
	}{
		{"/etc/resolv.conf", resolvers},
		{"/proc/net/route", gateways4},
		{"/proc/net/ipv6_route", gateways6},
	} {
		if r, err := os.Open(f.path); err == nil {
			own = append(own, f.parse(r)...)
			r.Close()
		}
	}
	return own
}

func fields(r io.Reader, each func([]string)) {
	for sc := bufio.NewScanner(r); sc.Scan(); {
		each(strings.Fields(sc.Text()))
	}
}

func resolvers(r io.Reader) (out []netip.Addr) {
	fields(r, func(f []string) {
		if len(f) >= 2 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				out = append(out, a.WithZone(""))
			}
		}
	})
	return out
}

// gateways4 reads /proc/net/route: the third column is the gateway, in the byte order of the machine.
func gateways4(r io.Reader) (out []netip.Addr) {
	fields(r, func(f []string) {
		if len(f) < 3 {
			return
		}
		b, err := hex.DecodeString(f[2])
		if err != nil || len(b) != 4 {
			return
		}
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
		if addr := netip.AddrFrom4(a); !addr.IsUnspecified() {
			out = append(out, addr)
		}
	})
	return out
}

// gateways6 reads /proc/net/ipv6_route: the fifth column is the next hop.
func gateways6(r io.Reader) (out []netip.Addr) {
	fields(r, func(f []string) {
		if len(f) < 5 {
			return
		}
		b, err := hex.DecodeString(f[4])
		if err != nil || len(b) != 16 {
			return
		}
		if addr := netip.AddrFrom16([16]byte(b)); !addr.IsUnspecified() {
			out = append(out, addr)
		}
	})
	return out
}
