package synchecker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"migrationsensor/proto"
)

// datapath is the packet program and what it goes by. One goroutine at a time may use it.
type datapath struct {
	*shared
	prog *ebpf.Program

	// set once
	port uint16
	mtu  int

	mac    net.HardwareAddr
	mode   Mode
	kernel kernelTCP
	rules  *Rules // nil: none yet, so the program lets everything pass
	slot   uint32 // of the rules that the program reads
	gate   Gate
	until  map[netip.Addr]time.Time // who is admitted
	bits   [hintSize]byte           // hints, as the program has them
}

func newDatapath(f Filter, ifi *net.Interface) (_ *datapath, err error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errors.New("the packet program is for little-endian machines")
	}
	if len(f.Addrs) == 0 || len(f.Addrs) > maxFilterAddrs {
		return nil, fmt.Errorf("packet program for %d addresses, want 1 to %d", len(f.Addrs), maxFilterAddrs)
	}
	d := &datapath{port: f.LinkPort, mac: ifi.HardwareAddr, mtu: ifi.MTU, kernel: readKernelTCP(), until: map[netip.Addr]time.Time{}}
	if d.shared, err = newShared(); err != nil {
		return nil, err
	}
	if d.prog, err = d.load(f); err != nil {
		d.shared.close()
		return nil, err
	}
	return d, nil
}

func (d *datapath) close() {
	d.prog.Close()
	d.shared.close()
}

// monotonic is the clock that the program reads, in ns.
func monotonic() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return ts.Nano(), nil
}

// commit has the program go by mode, rules and gate from the next packet on. A reader that still has
// the old slot keeps it: it is not written again before ruleSlots-1 more commits.
func (d *datapath) commit() error {
	b, err := d.encode()
	if err != nil {
		return err
	}
	next := (d.slot + 1) % ruleSlots
	if err := d.shared.rules.Update(next, b, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("rules of the packet program: %w", err)
	}
	if err := d.which.Update(uint32(0), uint64(next), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("rules of the packet program: %w", err)
	}
	d.slot = next
	return nil
}

func (d *datapath) encode() ([]byte, error) {
	b := make([]byte, ruleSize)
	if d.rules == nil {
		return b, nil
	}
	r := d.rules
	mono, err := monotonic()
	if err != nil {
		return nil, err
	}
	le.PutUint32(b[ruleMode:], uint32(d.mode))
	copy(b[ruleMAC:], d.mac)
	be.PutUint16(b[rulePort:], d.port)
	le.PutUint64(b[ruleKey:], r.jar.k0)
	le.PutUint64(b[ruleKey+8:], r.jar.k1)
	le.PutUint64(b[ruleStart:], uint64(mono-time.Since(r.jar.start).Nanoseconds()))
	le.PutUint64(b[ruleWall:], uint64(time.Now().UnixNano()-mono))
	le.PutUint64(b[ruleFresh:], uint64(r.Shares.Fresh*(1<<32)))
	le.PutUint64(b[ruleAgain:], uint64(r.Shares.Again*(1<<32)))
	le.PutUint64(b[ruleAnswers:], interval(r.Shares.Answers))
	for i, mss := range []int{min(mss4, d.mtu-40), min(mss6, d.mtu-60)} {
		copy(b[ruleMSS+4*i:], []byte{2, 4, byte(mss >> 8), byte(mss)})
	}
	flags := d.kernel.flags
	if len(d.gate.Allow) > 0 {
		flags |= flagAllow
	}
	if len(d.gate.Services) > 0 {
		flags |= flagServices
	}
	le.PutUint32(b[ruleFlags:], flags)
	le.PutUint32(b[ruleScale:], d.kernel.scale)
	return b, nil
}

// interval is the time between two of so many a second; 0: no limit.
func interval(perSecond float64) uint64 {
	if perSecond <= 0 {
		return 0
	}
	const hour = float64(time.Hour)
	return uint64(max(1, min(hour, float64(time.Second)/perSecond)))
}

// sysctl reads the numbers of a kernel setting, at least one, in the caller's network namespace.
func sysctl(name string) (out []int, err error) {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return nil, err
	}
	for s := range strings.FieldsSeq(string(b)) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, n)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s is empty", name)
	}
	return out, nil
}

// kernelTCP is how the kernel's own TCP is set up, for cookies in its name.
type kernelTCP struct{ flags, scale uint32 }

func readKernelTCP() (k kernelTCP) {
	if v, err := sysctl("net/ipv4/tcp_timestamps"); err == nil && v[0] == 2 {
		k.flags = flagStamps
	}
	k.scale = windowScale()
	return k
}

// windowScale is what the kernel will find when it takes a connection over: tcp_select_initial_window
// of net/ipv4/tcp_output.c. A listener with a receive buffer of its own may have less.
func windowScale() uint32 {
	space := 0
	if v, err := sysctl("net/ipv4/tcp_rmem"); err == nil {
		space = v[len(v)-1]
	}
	if v, err := sysctl("net/core/rmem_max"); err == nil {
		space = max(space, v[0])
	}
	return uint32(max(0, min(14, bits.Len(uint(space))-16)))
}

// program takes new rules.
func (d *datapath) program(r Rules) error {
	for id := range d.keysNow() {
		if _, ok := r.keys[id]; !ok {
			if err := d.masters.Delete(keyNumber(id)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("forget key %v: %w", id, err)
			}
		}
	}
	for id, m := range r.keys {
		if d.keysNow()[id] != m {
			if err := d.masters.Update(keyNumber(id), m, ebpf.UpdateAny); err != nil {
				return fmt.Errorf("set key %v: %w", id, err)
			}
		}
	}
	d.rules = &r
	return d.commit()
}

func (d *datapath) keysNow() map[proto.KeyID]proto.TagMaster {
	if d.rules == nil {
		return nil
	}
	return d.rules.keys
}

// keyNumber is a key id as the program loads it from a preamble.
func keyNumber(id proto.KeyID) uint32 { return uint32(id.Gen) | uint32(id.Issuer)<<8 }

// setGate lets in what is new before it shuts out what is old.
func (d *datapath) setGate(g Gate) error {
	allow4, allow6 := map[[8]byte]uint32{}, map[[20]byte]uint32{}
	for _, p := range g.Allow {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("allowed prefix %v is none", p)
		}
		p = p.Masked()
		if a := p.Addr(); a.Is4() {
			key := [8]byte{}
			le.PutUint32(key[:], uint32(p.Bits()))
			copy(key[4:], a.AsSlice())
			allow4[key] = 1
		} else {
			key := [20]byte{}
			le.PutUint32(key[:], uint32(p.Bits()))
			copy(key[4:], a.AsSlice())
			allow6[key] = 1
		}
	}
	services := map[[20]byte]uint32{}
	for ap, plain := range g.Services {
		if plain < PlainDrop || plain > PlainAdmit {
			return fmt.Errorf("service %v: no way for plain clients: %d", ap, plain)
		}
		key := [20]byte{}
		a := ap.Addr().As16()
		copy(key[:], a[:])
		be.PutUint16(key[16:], ap.Port())
		services[key] = uint32(plain)
	}
	if err := errors.Join(replace(d.allow4, allow4), replace(d.allow6, allow6), replace(d.services, services)); err != nil {
		return fmt.Errorf("gate of the packet program: %w", err)
	}
	d.gate, d.kernel = g, readKernelTCP()
	return d.commit()
}

// replace makes m hold what want does, additions first.
func replace[K comparable](m *ebpf.Map, want map[K]uint32) error {
	for k, v := range want {
		if err := m.Update(k, v, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	var (
		k   K
		v   uint32
		old []K
	)
	it := m.Iterate()
	for it.Next(&k, &v) {
		if _, ok := want[k]; !ok {
			old = append(old, k)
		}
	}
	for _, k := range old {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return it.Err()
}

// admit changes who is admitted, thousands in a few calls.
func (d *datapath) admit(admit []Admission, evict []netip.Addr) error {
	now := time.Now()
	mono, err := monotonic()
	if err != nil {
		return err
	}
	var gone [][16]byte
	for _, a := range evict {
		gone = append(gone, a.Unmap().As16())
		delete(d.until, a.Unmap())
	}
	if len(d.until)+len(admit) > maxAdmitted/2 { // the program reads the time, so they do no harm until then
		for a, t := range d.until {
			if t.Before(now) {
				gone = append(gone, a.As16())
				delete(d.until, a)
			}
		}
	}
	if err := deleteAll(d.admitted, gone); err != nil {
		return fmt.Errorf("evict from the packet program: %w", err)
	}
	if len(gone) > 0 {
		clear(d.bits[:])
		for a := range d.until {
			d.hint(a.As16())
		}
	}
	latest := make(map[netip.Addr]time.Time, len(admit)) // a batch must not name one twice
	for _, a := range admit {
		latest[a.Addr.Unmap().WithZone("")] = a.Until
	}
	keys, values := make([][16]byte, 0, len(latest)), make([]uint64, 0, len(latest))
	for a, until := range latest {
		d.hint(a.As16())
		keys = append(keys, a.As16())
		values = append(values, uint64(max(0, mono+until.Sub(now).Nanoseconds())))
	}
	if err := d.hints.Update(uint32(0), d.bits[:], ebpf.UpdateAny); err != nil {
		return fmt.Errorf("hint at who is admitted to the packet program: %w", err)
	}
	if len(keys) > 0 {
		if _, err := d.admitted.BatchUpdate(keys, values, nil); err != nil {
			return fmt.Errorf("admit %d addresses to the packet program: %w", len(keys), err)
		}
	}
	maps.Copy(d.until, latest)
	return nil
}

func (d *datapath) hint(addr [16]byte) {
	h := hint(addr)
	le.PutUint64(d.bits[h/64*8:], le.Uint64(d.bits[h/64*8:])|1<<(h%64))
}

// whoElse reads who came without a good tag, by prefix.
func (d *datapath) whoElse() (map[netip.Prefix]uint64, error) {
	out := make(map[netip.Prefix]uint64)
	var key [8]byte
	var n uint64
	it := d.strangers.Iterate()
	for it.Next(&key, &n) {
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0: key[0], 1: key[1], 2: key[2], 3: key[3], 4: key[4], 5: key[5]}), 48)
		if key[2] == 0xff && key[3] == 0xff && key[0]|key[1] == 0 {
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{key[4], key[5], key[6], 0}), 24)
		}
		out[p] += n
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) { // aborted: they came faster than they could be read
		return nil, fmt.Errorf("read who came to the packet program: %w", err)
	}
	return out, nil
}

// deleteAll deletes keys that may not be there: a batch ends at the first such one.
func deleteAll(m *ebpf.Map, keys [][16]byte) error {
	for len(keys) > 0 {
		n, err := m.BatchDelete(keys, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		if err != nil {
			n++
		}
		keys = keys[min(n, len(keys)):]
	}
	return nil
}
