package flood

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab/kernel"
)

// Wire is the cable between the internet and an edge, into which a flood can be mixed at the rate of a network card: eBPF
// programs pass frames on without the kernel looking at them, and a storm puts what clients send at its place between its own
// packets. What the edge's ring (256 frames) has no room for is lost, a client's as well as a flood's. What the edge answers to
// invented addresses is counted and ends here.
//
//	internet ── client ┐ take: onto the belt ──► storm ─┐ edge ──► the edge's ring
//	         ◄─────────┴───────────── back ◄────────────┘
//
// It sits in a namespace of the lab that has two interfaces, client and edge, both made by kernel.Namespace.AsWire.
type Wire struct {
	ns       *kernel.Namespace
	counters *ebpf.Map
	shared   *ebpf.Memory
	belt     *ebpf.Map
	edge     netlink.LinkAttrs
	sources  [2]byte
	closers  []func() error
}

// Counts are what has passed a Wire so far.
type Counts struct {
	SYN      uint64 // storms sent
	Clients  uint64 // frames of clients
	Full     uint64 // of clients, lost because the storm did not run
	Answered uint64 // SYN-ACKs to invented addresses
	Back     uint64 // frames to clients
}

// NewWire attaches the programs; sources are where floods come from, a /16. Close removes them.
func NewWire(ns *kernel.Namespace, client, edge string, sources [2]byte) (w *Wire, err error) {
	w = &Wire{ns: ns, sources: sources}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("wire %s: %w", ns.Name, err), w.Close())
			w = nil
		}
	}()
	if w.counters, err = w.newMap(ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: countersLen, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE}); err != nil {
		return w, err
	}
	if w.shared, err = w.counters.Memory(); err != nil {
		return w, err
	}
	if w.belt, err = w.newMap(ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: slotLen, MaxEntries: beltSlots}); err != nil {
		return w, err
	}
	return w, ns.Do(func() error {
		if err := kernel.CheckInside(); err != nil {
			return err
		}
		c, err := netlink.LinkByName(client)
		if err != nil {
			return fmt.Errorf("%s: %w", client, err)
		}
		e, err := netlink.LinkByName(edge)
		if err != nil {
			return fmt.Errorf("%s: %w", edge, err)
		}
		w.edge = *e.Attrs()
		return errors.Join(
			w.attach(c.Attrs().Index, takeProgram(w.counters.FD(), w.belt.FD(), w.edge.Index)),
			w.attach(w.edge.Index, backProgram(w.counters.FD(), c.Attrs().Index, sources)),
		)
	})
}

func (w *Wire) newMap(spec ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&spec)
	if err != nil {
		return nil, fmt.Errorf("map: %w (needs CAP_BPF)", err)
	}
	w.closers = append(w.closers, m.Close)
	return m, nil
}

func (w *Wire) attach(ifindex int, p asm.Instructions) error {
	prog, err := load(p)
	if err != nil {
		return err
	}
	defer prog.Close() // the attachment holds it
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifindex, Flags: link.XDPDriverMode})
	if err != nil {
		return fmt.Errorf("attach to interface %d: %w", ifindex, err)
	}
	w.closers = append(w.closers, l.Close)
	return nil
}

func load(p asm.Instructions) (*ebpf.Program, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: p, License: "GPL"})
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return prog, nil
}

func (w *Wire) counter(at int64) uint64 {
	var b [8]byte
	if _, err := w.shared.ReadAt(b[:], at); err != nil {
		panic(fmt.Sprintf("BUG: counter at %d: %v", at, err)) // it is mapped
	}
	return binary.NativeEndian.Uint64(b[:])
}

// Counts reads the counters.
func (w *Wire) Counts() Counts {
	return Counts{
		SYN: w.counter(nSYN), Clients: w.counter(nTaken) + w.counter(nDirect), Full: w.counter(nFull),
		Answered: w.counter(nAnswered), Back: w.counter(nBack),
	}
}

// A call of the kernel makes so many packets. It takes 20 ms before the first, so calls are long; they end sooner than they would
// once they are told to stop, for then they make nothing.
const (
	firstCall = 1 << 17
	longCall  = 1 << 23
	callTime  = time.Second
)

// nextCall is as many as take callTime, by what the last call took.
func nextCall(n uint32, took time.Duration) uint32 {
	return uint32(min(max(float64(n)*callTime.Seconds()/max(took.Seconds(), 1e-3), firstCall), longCall))
}

// Storm sends at its rate, or as fast as one processor can, until its time or count is over or ctx is done. It takes a thread, which runs on the
// given processor.
func (w *Wire) Storm(ctx context.Context, c Config, to net.HardwareAddr, cpu int) (Storm, error) {
	return w.storm(ctx, c, to, cpu, w.edge.Index)
}

// Alone makes the same packets and sends none: what they cost by themselves.
func (w *Wire) Alone(ctx context.Context, c Config, to net.HardwareAddr, cpu int) (Storm, error) {
	return w.storm(ctx, c, to, cpu, 0)
}

func (w *Wire) storm(ctx context.Context, c Config, to net.HardwareAddr, cpu, by int) (r Storm, err error) {
	if err := c.CheckStorm(); err != nil {
		return r, err
	}
	if a := c.Sources.Addr().As4(); [2]byte(a[:2]) != w.sources || len(to) != 6 {
		return r, fmt.Errorf("%w: a storm from %s to %s on a wire whose floods come from %v", ErrRefused, c.Sources, to, w.sources)
	}
	s := storm{
		counters: w.counters.FD(), belt: w.belt.FD(), edge: by, src: w.edge.HardwareAddr, dst: to,
		sources: w.sources, target: c.Target.Addr().As4(), port: c.Target.Port(), size: c.Size,
	}
	if c.Rate > 0 {
		s.gap = int(time.Second) / c.Rate
	}
	if len(c.Data) > 0 {
		m, err := payloads(c.Data)
		if err != nil {
			return r, err
		}
		defer m.Close()
		s.data, s.size, s.payloads = m.FD(), len(c.Data[0]), int(m.MaxEntries())
	}
	prog, err := load(s.program())
	if err != nil {
		return r, err
	}
	defer prog.Close()
	if err := w.stop(0); err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Time)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = w.stop(1) })() // it is mapped
	err = w.ns.Block(func() error {
		if err := kernel.CheckInside(); err != nil {
			return err
		}
		return w.blow(ctx, prog, make([]byte, atPayload+s.size), c.Count, cpu, &r)
	})
	return r, err
}

// payloads are a map of them, their number made a power of two by repeating some.
func payloads(data [][]byte) (*ebpf.Map, error) {
	n := 1
	for n < len(data) {
		n *= 2
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(data[0])), MaxEntries: uint32(n)})
	if err != nil {
		return nil, fmt.Errorf("map of payloads: %w", err)
	}
	for i := range n {
		if err := m.Put(uint32(i), data[i%len(data)]); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

func (w *Wire) stop(v uint64) error {
	_, err := w.shared.WriteAt(binary.NativeEndian.AppendUint64(nil, v), nStop)
	return err
}

// xdpMD is the kernel's struct xdp_md.
type xdpMD struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }

// blow is the storm on its thread.
func (w *Wire) blow(ctx context.Context, prog *ebpf.Program, frame []byte, most, cpu int, r *Storm) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("the storm's thread: %w", err)
	}
	first, began, used := w.counter(nSYN), time.Now(), threadCPU()
	md := xdpMD{DataEnd: uint32(len(frame)), Ingress: uint32(w.edge.Index)}
	r.First = began
	call := uint32(firstCall)
	for ctx.Err() == nil {
		n := call
		if most > 0 {
			left := most - int(w.counter(nSYN)-first)
			if left <= 0 {
				break
			}
			n = uint32(min(int(call), left))
		}
		at := time.Now()
		_, err := prog.Run(&ebpf.RunOptions{Data: frame, Context: md, Repeat: n, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES, BatchSize: 64})
		if err != nil {
			return fmt.Errorf("run: %w", err)
		}
		call = nextCall(n, time.Since(at)) // with a rate most of a call's packets are not due, and dropped
	}
	r.Sent, r.Seconds, r.CPU = int(w.counter(nSYN)-first), time.Since(began).Seconds(), threadCPU()-used
	return nil
}

// threadCPU is what the calling thread has used.
func threadCPU() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &u) // can't fail with these arguments
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Close removes the programs; frames are lost from then on.
func (w *Wire) Close() error {
	var errs []error
	for i := len(w.closers) - 1; i >= 0; i-- {
		errs = append(errs, w.closers[i]())
	}
	w.closers = nil
	return errors.Join(errs...)
}
