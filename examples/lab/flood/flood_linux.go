package flood

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"migrationsensor/examples/lab/frame"
	"migrationsensor/examples/lab/kernel"
)

// Run sends the flood from the calling thread's namespace, which must be one of the lab's, until
// its time or count is over or ctx is done. It holds the calling goroutine's thread meanwhile.
func Run(ctx context.Context, c Config) (Result, error) {
	if err := c.Check(); err != nil {
		return Result{}, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := kernel.CheckInside(); err != nil {
		return Result{}, err
	}
	port, err := frame.OpenPort(c.Target.Addr(), false)
	if err != nil {
		return Result{}, err
	}
	defer port.Close()
	return send(ctx, c, port)
}

func send(ctx context.Context, c Config, port *frame.Port) (r Result, err error) {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0)
	batch := make([][]byte, frame.Batch)
	t := c.template()
	t.SrcMAC, t.DstMAC = port.SrcMAC, port.DstMAC
	for i := range batch {
		batch[i] = t.Append(nil)
	}
	p := &pace{rate: c.Rate, total: int(c.Time.Seconds() * float64(c.Rate))}
	if c.Count > 0 {
		p.total = min(p.total, c.Count)
	}
	random := rand.New(rand.NewPCG(c.Seed, 1))
	start := time.Now()
	for !p.done() && ctx.Err() == nil {
		n := min(p.due(time.Since(start)), frame.Batch)
		if n == 0 {
			pause := unix.NsecToTimespec(int64(200 * time.Microsecond))
			_ = unix.Nanosleep(&pause, nil)
			continue
		}
		for _, f := range batch[:n] {
			vary(f, c.Sources, random)
		}
		sent, sendErr := port.Send(batch[:n])
		if sendErr != nil {
			r.Failed++
			sent, err = 1, sendErr // this one is lost; the flood goes on
			p.skipped++
			continue
		}
		if p.sent == 0 {
			r.First = time.Now()
		}
		p.sent += sent
	}
	r.Sent, r.Skipped, r.Seconds = p.sent, p.skipped-r.Failed, time.Since(start).Seconds()
	if r.Sent > 0 {
		err = nil
	}
	return r, err
}

// vary gives a frame another source, port and sequence number.
func vary(f []byte, sources netip.Prefix, random *rand.Rand) {
	v, _ := frame.Look(f)
	randomize(v.Src, sources.Bits(), random)
	switch v.Proto {
	case frame.TCP:
		binary.BigEndian.PutUint16(v.Segment, uint16(1024+random.IntN(64512)))
		binary.BigEndian.PutUint32(v.Segment[4:], random.Uint32())
	case frame.UDP:
		binary.BigEndian.PutUint16(v.Segment, uint16(1024+random.IntN(64512)))
	default:
		binary.BigEndian.PutUint32(v.Segment[4:], random.Uint32())
	}
	frame.Sum(f)
}

// randomize fills the bits of an address behind its prefix.
func randomize(addr []byte, bits int, random *rand.Rand) {
	for i := len(addr) - 1; i >= 0 && (i+1)*8 > bits; i-- {
		mask := byte(0xff)
		if i*8 < bits {
			mask >>= bits - i*8
		}
		addr[i] = addr[i]&^mask | byte(random.Uint32())&mask
	}
}
