package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Commands of <linux/ethtool.h>.
const (
	ethtoolSetTxChecksum = 0x17
	ethtoolSetTSO        = 0x1f
	ethtoolSetGRO        = 0x2c
)

// AsWire makes a veth behave as a network card does: it hands over whole packets, each with its checksum, and it takes packets in
// through a ring of 256 (NAPI), so that what arrives faster than this end works is lost and does not hold up who sends. Both ends
// of a pair want it.
func (n *Namespace) AsWire(dev string) error {
	return n.Do(func() error {
		for _, set := range []struct {
			what       string
			cmd, value uint32
		}{{"no TSO", ethtoolSetTSO, 0}, {"no checksum offload", ethtoolSetTxChecksum, 0}, {"GRO", ethtoolSetGRO, 1}} {
			if err := ethtool(dev, set.cmd, set.value); err != nil {
				return fmt.Errorf("%s on %s: %w", set.what, dev, err)
			}
		}
		return nil
	})
}

// ethtool makes one of the old calls with a single value.
func ethtool(dev string, cmd, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	arg := struct{ cmd, value uint32 }{cmd, value}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of struct ifreq
	}{data: unsafe.Pointer(&arg)}
	copy(req.name[:unix.IFNAMSIZ-1], dev)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(&arg)
	if errno != 0 {
		return errno
	}
	return nil
}

// Threaded gives an interface's NAPI a kernel thread of its own, whose name is "napi/" and the interface's; otherwise the
// processor that sends to it does its work.
func (n *Namespace) Threaded(dev string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	// sysfs shows the network namespace of who mounted it, so it is mounted anew, for a thread that ends.
	return n.Block(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
			return fmt.Errorf("mount sysfs: %w", err)
		}
		return os.WriteFile("/sys/class/net/"+dev+"/threaded", []byte(value), 0)
	})
}

// Stay keeps this namespace's programs, those that are started from now on, on one processor.
func (n *Namespace) Stay(cpu int) error {
	return n.Do(func() error { return pinSelf(cpu) })
}

// StayHere keeps this program on one processor and makes it so nice (-20 is before everything else, 19 behind it): its threads,
// those to come, and what it starts.
func StayHere(cpu, nice int) error {
	var set unix.CPUSet
	set.Set(cpu)
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range all {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stay on processor %d: %w", cpu, err)
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("be as nice as %d: %w (needs root)", nice, err)
		}
	}
	return nil
}

// Sysctl sets one of the namespace's settings, a key below /proc/sys/net.
func (n *Namespace) Sysctl(key, value string) error {
	return n.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) })
}

// tcpMetricsDelete is TCP_METRICS_CMD_DEL of <linux/tcp_metrics.h>.
const tcpMetricsDelete = 2

// ForgetPeers makes the namespace's TCP forget what it knows of whom it has spoken with: a quarter of a backlog is kept for known
// peers, and a client that has connected before would get in where a newcomer doesn't.
func (n *Namespace) ForgetPeers() error {
	return n.Do(func() error {
		family, err := netlink.GenlFamilyGet("tcp_metrics")
		if err != nil {
			return fmt.Errorf("tcp_metrics: %w", err)
		}
		req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
		req.AddData(&nl.Genlmsg{Command: tcpMetricsDelete, Version: 1})
		if _, err := req.Execute(unix.NETLINK_GENERIC, 0); err != nil {
			return fmt.Errorf("flush tcp_metrics: %w", err)
		}
		return nil
	})
}

// pinSelf keeps the calling thread on one processor, and what it starts.
func pinSelf(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("stay on processor %d: %w", cpu, err)
	}
	return nil
}
