package synchecker

import "net/netip"

// Frame is one ethernet frame as it arrived.
type Frame struct {
	Data []byte // from the ethernet header on, perhaps cut short; valid until the next Read
	VLAN uint32 // TPID<<16 | TCI of a tag that is not in Data any more; 0: none
}

// Port is where frames come from and go to. One goroutine reads and writes; Arm, Lost and Close may
// be called from others.
type Port interface {
	// Read waits for at least one frame that Arm's mode lets through, but see Sampler. Keyed SYNs, first flights and
	// knocks come before plain SYNs, so that a flood of these does not delay them.
	Read(buf []Frame) (int, error)
	// Write sends frames and says how many went out; what a full queue refuses is lost.
	Write(frames [][]byte) (int, error)
	// Arm chooses what Read shall see from now on; a new port sees nothing.
	Arm(Mode) error
	// Lost counts frames that arrived when the port's buffer was full.
	Lost() uint64
	// Close frees a blocked Read with net.ErrClosed. It may be called more than once.
	Close() error
}

// Sampler is a Port that can leave out plain SYNs before they cost anything. Its Read returns without
// a frame now and then while it does, so that the share can be set anew.
type Sampler interface {
	// Sample has the port take a share of the plain SYNs, by chance. It is the reader's.
	Sample(share float64) error
}

// Filter is what a port lets through at all: TCP and UDP to LinkPort of Addrs.
type Filter struct {
	Addrs    []netip.Addr
	LinkPort uint16
}
