package frame

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// TestFramesAreWhatOthersUnderstand builds each kind of packet and compares it, byte for byte,
// with what gopacket makes of the same fields.
func TestFramesAreWhatOthersUnderstand(t *testing.T) {
	src, dst := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	for _, addrs := range [][2]string{{"198.18.1.1", "198.18.72.11"}, {"2001:2:0:1::1", "2001:2:0:72::11"}} {
		for name, p := range map[string]Packet{
			"syn":  {Proto: TCP, SrcPort: 1025, DstPort: 80, Seq: 7, Flags: SYN, Window: 64240, Options: []byte{2, 4, 5, 0xb4}},
			"data": {Proto: TCP, SrcPort: 1025, DstPort: 80, Seq: 7, Ack: 9, Flags: ACK | PSH, Window: 1, Payload: []byte("odd")},
			"udp":  {Proto: UDP, SrcPort: 1025, DstPort: 7443, Payload: []byte("knock")},
			"echo": {Proto: ICMP, Type: 8, SrcPort: 3, DstPort: 4, Payload: []byte("ping")},
		} {
			t.Run(name+" "+addrs[1], func(t *testing.T) {
				p.SrcMAC, p.DstMAC = src, dst
				p.Src, p.Dst = netip.MustParseAddr(addrs[0]), netip.MustParseAddr(addrs[1])
				got := p.Append(nil)
				want, padding := split(byGopacket(t, p), len(got)) // it pads to Ethernet's minimum
				if string(got) != string(want) || len(bytes.Trim(padding, "\x00")) > 0 {
					t.Errorf("got  %x\nwant %x", got, want)
				}
			})
		}
	}
}

func split(b []byte, at int) (head, tail []byte) {
	at = min(at, len(b))
	return b[:at], b[at:]
}

func byGopacket(t *testing.T, p Packet) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: p.SrcMAC, DstMAC: p.DstMAC, EthernetType: layers.EthernetTypeIPv4}
	v4 := &layers.IPv4{Version: 4, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocol(p.Proto), SrcIP: p.Src.AsSlice(), DstIP: p.Dst.AsSlice()}
	v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(p.proto6()), SrcIP: p.Src.AsSlice(), DstIP: p.Dst.AsSlice()}
	var network gopacket.NetworkLayer = v4
	stack := []gopacket.SerializableLayer{eth, v4}
	if p.Dst.Is6() {
		network, eth.EthernetType, stack[1] = v6, layers.EthernetTypeIPv6, v6
	}
	payload := gopacket.Payload(p.Payload)
	switch p.Proto {
	case TCP:
		tcp := &layers.TCP{SrcPort: layers.TCPPort(p.SrcPort), DstPort: layers.TCPPort(p.DstPort), Seq: p.Seq, Ack: p.Ack,
			SYN: p.Flags&SYN != 0, ACK: p.Flags&ACK != 0, PSH: p.Flags&PSH != 0, Window: p.Window}
		if len(p.Options) > 0 {
			tcp.Options = []layers.TCPOption{{OptionType: 2, OptionLength: 4, OptionData: p.Options[2:]}}
		}
		tcp.SetNetworkLayerForChecksum(network)
		stack = append(stack, tcp)
	case UDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(p.SrcPort), DstPort: layers.UDPPort(p.DstPort)}
		udp.SetNetworkLayerForChecksum(network)
		stack = append(stack, udp)
	case ICMP:
		if p.Dst.Is4() {
			stack = append(stack, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(p.Type, p.Code), Id: p.SrcPort, Seq: p.DstPort})
			break
		}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(p.Type, p.Code)}
		icmp.SetNetworkLayerForChecksum(network)
		stack = append(stack, icmp)
		payload = append([]byte{byte(p.SrcPort >> 8), byte(p.SrcPort), byte(p.DstPort >> 8), byte(p.DstPort)}, p.Payload...)
	}
	b := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, opts, append(stack, payload)...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func FuzzLook(f *testing.F) {
	f.Add(Packet{SrcMAC: make(net.HardwareAddr, 6), DstMAC: make(net.HardwareAddr, 6), Src: netip.MustParseAddr("198.18.1.1"),
		Dst: netip.MustParseAddr("198.18.1.2"), Proto: TCP}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, ok := Look(b)
		if ok && len(v.Segment) > len(b) {
			t.Errorf("segment of %d bytes in a frame of %d", len(v.Segment), len(b))
		}
	})
}
