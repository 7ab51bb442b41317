//go:build !linux

package netstack

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"

	"golang.zx2c4.com/wireguard/tun"
)

func openTUN(name string, mtu int) (Device, error) {
	if runtime.GOOS == "darwin" && !strings.HasPrefix(name, "utun") {
		name = "utun" // the only name macOS takes; it appends the number
	}
	t, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return nil, fmt.Errorf("create TUN %s: %w (%s)", name, err, remedy(err))
	}
	if real, err := t.Name(); err == nil {
		name = real
	}
	return device{newPacketDevice(name, t, mtu)}, nil
}

func remedy(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "run as root, on Windows as administrator"
	case runtime.GOOS == "windows":
		return "needs wintun.dll beside the program, from https://www.wintun.net"
	default:
		return "see ifconfig"
	}
}
