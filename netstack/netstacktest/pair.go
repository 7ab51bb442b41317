// Package netstacktest offers what tests of flows need without root and without a kernel: a gVisor host on a memory
// link whose connections behave like an application's.
package netstacktest

import "migrationsensor/netstack/memnet"

// Device is one end of a memory link; it is a netstack.Device.
type Device = memnet.Device

// Pair returns the two ends of a memory link.
func Pair(mtu int) (*Device, *Device) { return memnet.Pair(mtu) }
