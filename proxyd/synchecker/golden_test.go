package synchecker

import (
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"migrationsensor/proto"
)

// TestGolden holds the bytes on the wire. The cookie's secret, the time and the nonce are fixed.
func TestGolden(t *testing.T) {
	for name, row := range map[string]struct {
		src          netip.Addr
		synack, head string // head: the headers of the sealed reply's segment
		rst          string
	}{
		"IPv4": {client4, goldenSYNACK4, goldenReply4, goldenRST4},
		"IPv6": {client6, goldenSYNACK6, goldenReply6, goldenRST6},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Defend)
			f.c.cfg.Nonces = proto.NewNonceSet() // the nonce is the same in both families
			f.c.jar = jar{k0: 1, k1: 2, start: f.now.Add(-time.Hour)}
			p := packet{src: row.src, seq: 0x01020304, options: linuxOptions}
			got := f.raw(p.frame(t))
			wantHex(t, "SYN-ACK", got, row.synack)
			data := f.connect(p)
			data.payload = proto.Preamble{
				Kind: proto.KindControl, Key: proto.KeyID{Gen: 1}, Target: f.node, Time: f.now, Nonce: proto.Nonce{9},
			}.Append(nil, f.keys(1), f.node)
			got = f.raw(data.frame(t))
			decode(t, got) // the checksum covers the sealed part
			sealed := f.reply.Seal(data.payload, f.keys(1))
			n := len(got) - len(sealed)
			if string(got[n:]) != string(sealed[:]) {
				t.Error("the segment does not carry the sealed reply")
			}
			head := append([]byte(nil), got[:n]...)
			head[n-4], head[n-3] = 0, 0 // the TCP checksum, which decode verified
			wantHex(t, "PSH|FIN", head, row.head)
			data.flags, data.ack, data.payload = flagFIN|flagACK, data.ack+257, nil
			wantHex(t, "RST", f.raw(data.frame(t)), row.rst)
		})
	}
}

func wantHex(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if h := hex.EncodeToString(got); h != want {
		t.Errorf("%s:\n got %s\nwant %s", what, h, want)
	}
}

const (
	goldenSYNACK4 = "020000000009020000000001" + "0800" +
		"4500002c000040004006aba4c6120101c6120202" + "1d139c40a4873285010203056012020072870000" + "020405b4"
	goldenReply4 = "020000000009020000000001" + "0800" +
		"45000128000040004006aaa8c6120101c6120202" + "1d139c40a4873286010203515019020000000000"
	goldenRST4 = "020000000009020000000001" + "0800" +
		"45000028000040004006aba8c6120101c6120202" + "1d139c40a487338700000000500400008f560000"

	goldenSYNACK6 = "020000000009020000000001" + "86dd" +
		"60000000001806402001000200000000000000000000000120010002000000000000000000000002" +
		"1d139c403a170f7e01020305601202004f320000" + "020405a0"
	goldenReply6 = "020000000009020000000001" + "86dd" +
		"60000000011406402001000200000000000000000000000120010002000000000000000000000002" +
		"1d139c403a170f7f010203515019020000000000"
	goldenRST6 = "020000000009020000000001" + "86dd" +
		"60000000001406402001000200000000000000000000000120010002000000000000000000000002" +
		"1d139c403a17108000000000500400006bed0000"
)
