package anchor

import (
	"encoding/binary"
	"net/netip"

	"migrationsensor/proto"
)

// proxySignature opens a PROXY protocol header, version 2 (HAProxy, "The PROXY protocol", 2.2).
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// tlvAgent carries the agent's id, 32 hex digits: 0xE0 is the first type for applications' own use.
const tlvAgent = 0xE0

// appendProxyHeader appends the header that tells an origin who the client is: source is the agent's
// address as seen, destination the service's public address of the same family.
//
//	signature 12 | version 2, command PROXY: 0x21 | family, TCP: 0x11 or 0x21 | length 2 |
//	source address | destination address | source port 2 | destination port 2 |
//	TLV: type 0xE0 | length 2 | agent id
func appendProxyHeader(b []byte, src netip.AddrPort, public []netip.AddrPort, agent proto.AgentID) []byte {
	dst := destination(src, public)
	sa, da, family := src.Addr().Unmap(), dst.Addr().Unmap(), byte(0x11)
	if !sa.Is4() || !da.Is4() {
		family = 0x21
		sa, da = netip.AddrFrom16(sa.As16()), netip.AddrFrom16(da.As16())
	}
	id := agent.String()
	b = append(b, proxySignature...)
	b = append(b, 0x21, family)
	b = binary.BigEndian.AppendUint16(b, uint16(2*sa.BitLen()/8+4+3+len(id)))
	b = append(append(b, sa.AsSlice()...), da.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = append(b, tlvAgent)
	b = binary.BigEndian.AppendUint16(b, uint16(len(id)))
	return append(b, id...)
}

// destination is the public address of src's family, else any; the agent may reach the proxy by the
// other family than the application dialled.
func destination(src netip.AddrPort, public []netip.AddrPort) netip.AddrPort {
	for _, p := range public {
		if p.Addr().Unmap().Is4() == src.Addr().Unmap().Is4() {
			return p
		}
	}
	if len(public) > 0 {
		return public[0]
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
}
