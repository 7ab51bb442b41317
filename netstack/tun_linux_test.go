package netstack

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRemedyNamesTheCommand(t *testing.T) {
	for err, want := range map[error]string{
		unix.ENOENT: "mknod /dev/net/tun c 10 200",
		unix.ENODEV: "modprobe tun",
		unix.EPERM:  "CAP_NET_ADMIN",
		unix.EACCES: `devices: ["/dev/net/tun:/dev/net/tun"]`,
		unix.EBUSY:  "another process",
	} {
		if got := remedy(fmt.Errorf("open: %w", err)); !strings.Contains(got, want) {
			t.Errorf("%v: got %q, want it to name %q", err, got, want)
		}
	}
}

func TestVnetHdrBytes(t *testing.T) {
	var b [vnetHdrLen]byte
	vnetHdr{flags: vnetNeedsCsum, gsoType: vnetGSOTCPv6, hdrLen: 60, gsoSize: 1440, csumStart: 40, csumOffset: 16}.put(b[:])
	want := "01043c00a00528001000"
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		want = "0104003c05a000280010" // big endian
	}
	if got := hex.EncodeToString(b[:]); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLadderGoesOnAfterAKernelThatRefusesOffload(t *testing.T) {
	var tried []rung
	d, err := climbWith(func(r rung) (*tunDevice, error) {
		tried = append(tried, r)
		if r.offload || r.mtu == 65535 {
			return nil, fmt.Errorf("segmentation probe: %w", unix.EINVAL)
		}
		return &tunDevice{name: "ms0"}, nil
	}, ladder)
	if err != nil || d.Name() != "ms0" || len(tried) != 3 || tried[2].mtu != 9000 {
		t.Errorf("got %v after %v, want the third rung", err, tried)
	}
	tried = nil
	_, err = climbWith(func(r rung) (*tunDevice, error) {
		tried = append(tried, r)
		return nil, unix.EPERM
	}, ladder)
	if !errors.Is(err, unix.EPERM) || len(tried) != 1 {
		t.Errorf("missing right: got %v after %d rungs, want EPERM after the first", err, len(tried))
	}
}
