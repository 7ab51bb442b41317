package memnet

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// unreachableFor is the ICMP error for a packet whose destination nobody has; nil for what must not be answered so. Its
// source is the address that was asked for: the switch has none of its own.
func unreachableFor(head []byte) []byte {
	switch {
	case len(head) >= header.IPv4MinimumSize && head[0]>>4 == header.IPv4Version:
		return unreachable4(head)
	case len(head) >= header.IPv6MinimumSize && head[0]>>4 == header.IPv6Version:
		return unreachable6(head)
	}
	return nil
}

func unreachable4(head []byte) []byte {
	of := header.IPv4(head)
	if of.Protocol() == uint8(header.ICMPv4ProtocolNumber) {
		return nil
	}
	quoted := head[:min(len(head), int(of.HeaderLength())+8)]
	b := make([]byte, header.IPv4MinimumSize+header.ICMPv4MinimumSize+len(quoted))
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
		SrcAddr: of.DestinationAddress(), DstAddr: of.SourceAddress(),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	icmp := header.ICMPv4(b[header.IPv4MinimumSize:])
	copy(icmp[header.ICMPv4MinimumSize:], quoted)
	icmp.SetType(header.ICMPv4DstUnreachable)
	icmp.SetCode(header.ICMPv4HostUnreachable)
	icmp.SetChecksum(header.ICMPv4Checksum(icmp, 0))
	return b
}

func unreachable6(head []byte) []byte {
	of := header.IPv6(head)
	if of.NextHeader() == uint8(header.ICMPv6ProtocolNumber) {
		return nil
	}
	b := make([]byte, header.IPv6MinimumSize+header.ICMPv6DstUnreachableMinimumSize+len(head))
	ip := header.IPv6(b)
	ip.Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(b) - header.IPv6MinimumSize), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 64,
		SrcAddr: of.DestinationAddress(), DstAddr: of.SourceAddress(),
	})
	icmp := header.ICMPv6(b[header.IPv6MinimumSize:])
	copy(icmp[header.ICMPv6DstUnreachableMinimumSize:], head)
	icmp.SetType(header.ICMPv6DstUnreachable)
	icmp.SetCode(header.ICMPv6NetworkUnreachable) // gVisor takes no notice of "address unreachable"
	payload := icmp[header.ICMPv6DstUnreachableMinimumSize:]
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: icmp[:header.ICMPv6DstUnreachableMinimumSize], Src: of.DestinationAddress(), Dst: of.SourceAddress(),
		PayloadCsum: checksum.Checksum(payload, 0), PayloadLen: len(payload),
	}))
	return b
}
