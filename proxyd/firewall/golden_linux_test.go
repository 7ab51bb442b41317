package firewall

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

var update = flag.Bool("update", false, "write the golden files anew")

// recorder is a kernel that says yes and keeps what it was told.
type recorder struct{ bytes.Buffer }

func (r *recorder) dial(req []netlink.Message) (acks []netlink.Message, err error) {
	for _, m := range req {
		fmt.Fprintf(r, "%04x %s\n", uint16(m.Header.Type), hex.EncodeToString(m.Data))
		if m.Header.Flags&netlink.Acknowledge != 0 {
			acks = append(acks, netlink.Message{
				Header: netlink.Header{Type: netlink.Error, Sequence: m.Header.Sequence, PID: m.Header.PID},
				Data:   make([]byte, 4),
			})
		}
	}
	return acks, nil
}

// What the kernel is told, byte for byte: a change of the rules must be meant. The real-kernel
// tests say what the bytes mean.
func TestNetlinkGolden(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		name := map[bool]string{false: "entry", true: "hidden"}[hidden]
		t.Run(name, func(t *testing.T) {
			cfg, err := config(hidden).check()
			if err != nil {
				t.Fatal(err)
			}
			var r recorder
			c, err := nftables.New(nftables.WithTestDial(r.dial))
			if err != nil {
				t.Fatal(err)
			}
			n := newNFT(c, slog.New(slog.DiscardHandler))
			n.index = func(string) (uint32, error) { return 7, nil }
			step := func(what string, f func() error) {
				fmt.Fprintf(&r, "# %s\n", what)
				if err := f(); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			p := &plan{cfg: cfg}
			live := Flow{netip.MustParseAddrPort("198.18.71.2:1000"), netip.MustParseAddrPort("198.18.72.1:7443")}
			step("open", func() error { _, err := n.replace(p); return err })
			p.defending = true
			step("defend", func() error { return n.gate(p) })
			step("flows", func() error { return n.setFlows(nil, []Flow{live}) })
			step("no flows", func() error { return n.setFlows([]Flow{live}, nil) })
			step("evict", func() error { return n.admit(nil, []netip.Addr{families[0].client, families[1].client}) })
			step("admit", func() error { // already over: a time of 1 ms, whatever the clock says
				return n.admit([]admission{{families[1].client, time.Unix(0, 0)}}, nil)
			})
			step("close", n.remove)
			compare(t, filepath.Join("testdata", name+".golden"), r.Bytes())
		})
	}
}

func compare(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("netlink messages differ from %s (-want +got; -update writes it anew):\n%s", file, d)
	}
}
