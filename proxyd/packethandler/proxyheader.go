package packethandler

import (
	"encoding/binary"
	"net/netip"
)

// proxySignature opens a PROXY protocol header, version 2 (HAProxy, "The PROXY protocol", 2.2).
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// appendProxyHeader appends the header that tells an origin who the client is:
//
//	signature 12 | version 2, command PROXY: 0x21 | family, TCP: 0x11 or 0x21 | length 2 |
//	source address | destination address | source port 2 | destination port 2
func appendProxyHeader(b []byte, src, dst netip.AddrPort) []byte {
	family := byte(0x11)
	if src.Addr().Is6() {
		family = 0x21
	}
	b = append(b, proxySignature...)
	b = append(b, 0x21, family)
	b = binary.BigEndian.AppendUint16(b, uint16(2*src.Addr().BitLen()/8+4))
	b = append(b, src.Addr().AsSlice()...)
	b = append(b, dst.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	return binary.BigEndian.AppendUint16(b, dst.Port())
}
