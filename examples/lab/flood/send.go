package flood

import (
	"cmp"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"time"

	"migrationsensor/examples/lab/frame"
)

// Sender sends Ethernet frames, frame.Batch at most, and says how many went out.
type Sender interface {
	Send(frames [][]byte) (int, error)
}

// Over sends the flood over s, such as an interface of the lab in memory, until its time or count is over or ctx is
// done.
func Over(ctx context.Context, c Config, s Sender) (Result, error) {
	if err := c.Check(); err != nil {
		return Result{}, err
	}
	t := c.template()
	t.SrcMAC, t.DstMAC = make(net.HardwareAddr, 6), make(net.HardwareAddr, 6)
	return send(ctx, c, t, s, func() { time.Sleep(time.Millisecond) })
}

// send paces the flood; it naps when nothing is due.
func send(ctx context.Context, c Config, t frame.Packet, port Sender, nap func()) (r Result, err error) {
	batch := make([][]byte, frame.Batch)
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
			nap()
			continue
		}
		for _, f := range batch[:n] {
			vary(f, c, random)
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

// The source ports of a flood: all that are not reserved.
const (
	firstPort = 1024
	allPorts  = 65536 - firstPort
)

// vary gives a frame another source, port and sequence number.
func vary(f []byte, c Config, random *rand.Rand) {
	v, _ := frame.Look(f)
	randomize(v.Src, c.Sources.Bits(), random)
	port := uint16(firstPort + random.IntN(cmp.Or(c.Ports, allPorts)))
	switch v.Proto {
	case frame.TCP:
		binary.BigEndian.PutUint16(v.Segment, port)
		binary.BigEndian.PutUint32(v.Segment[4:], random.Uint32())
		carry(v.Segment[synHeader:], c, random)
	case frame.UDP:
		binary.BigEndian.PutUint16(v.Segment, port)
	default:
		binary.BigEndian.PutUint32(v.Segment[4:], random.Uint32())
	}
	frame.Sum(f)
}

// synHeader is the length of our SYN's header, with its one option.
const synHeader = 24

// carry gives a SYN another payload, if it has any.
func carry(payload []byte, c Config, random *rand.Rand) {
	if len(c.Data) > 0 {
		copy(payload, c.Data[random.IntN(len(c.Data))])
		return
	}
	for i := range payload {
		payload[i] = byte(random.Uint32())
	}
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
