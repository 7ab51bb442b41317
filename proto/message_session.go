package proto

import (
	"encoding/binary"
	"time"
)

// Attach adds its link to the session's current set; it takes nothing away from the others.
type Attach struct {
	Session SessionID
	Epoch   uint32 // of the set
}

func (*Attach) Type() FrameType { return TypeAttach }
func (m *Attach) AppendPayload(b []byte) []byte {
	return binary.BigEndian.AppendUint32(append(b, m.Session[:]...), m.Epoch)
}
func (m *Attach) parse(d *decoder) {
	d.fill(m.Session[:])
	m.Epoch = d.u32()
}

// AttachOK takes the link into the set.
type AttachOK struct{ Epoch uint32 }

func (*AttachOK) Type() FrameType                 { return TypeAttachOK }
func (m *AttachOK) AppendPayload(b []byte) []byte { return binary.BigEndian.AppendUint32(b, m.Epoch) }
func (m *AttachOK) parse(d *decoder)              { m.Epoch = d.u32() }

// StreamState says in a resume table where a stream stands.
type StreamState uint8

// The states. A stream whose OPEN is not answered is asked for by its OPEN, sent again.
const (
	StreamOpening   StreamState = 1 + iota // OPEN is not answered
	StreamOpen                             // bytes flow, or may
	StreamEnded                            // as open, and the FIN of the table's reader has come
	StreamReset                            // given up: an RST follows
	StreamFinished                         // in RESUME_OK: over in both directions, nothing is missing
	StreamBadOffset                        // in RESUME_OK: the offset is not one that can be resumed from
)

// ResumeStream is a stream's place in a resume table: what has been received of it, and up to which offset the other
// side may send.
type ResumeStream struct {
	ID       uint32
	State    StreamState
	Received uint64
	Credit   uint64
}

// ResumeStreamLen is the size of one stream in a resume table.
const ResumeStreamLen = 4 + 1 + 8 + 8

// Resume makes its link the first of a new set and names every stream that the agent has not finished. OPEN, DATA and
// what else a stream needs may follow in the same flight.
type Resume struct {
	Session SessionID
	Epoch   uint32 // higher than that of every set before
	Streams []ResumeStream
}

func (*Resume) Type() FrameType { return TypeResume }
func (m *Resume) AppendPayload(b []byte) []byte {
	return appendStreams(binary.BigEndian.AppendUint32(append(b, m.Session[:]...), m.Epoch), m.Streams)
}
func (m *Resume) parse(d *decoder) {
	d.fill(m.Session[:])
	m.Epoch = d.u32()
	m.Streams = d.streams()
}

// ResumeOK says where each of those streams stands at the anchor. The old links carry nothing from here.
type ResumeOK struct {
	Epoch   uint32
	Streams []ResumeStream
}

func (*ResumeOK) Type() FrameType { return TypeResumeOK }
func (m *ResumeOK) AppendPayload(b []byte) []byte {
	return appendStreams(binary.BigEndian.AppendUint32(b, m.Epoch), m.Streams)
}
func (m *ResumeOK) parse(d *decoder) {
	m.Epoch = d.u32()
	m.Streams = d.streams()
}

func appendStreams(b []byte, streams []ResumeStream) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(streams)))
	for _, s := range streams {
		b = append(binary.BigEndian.AppendUint32(b, s.ID), byte(s.State))
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, s.Received), s.Credit)
	}
	return b
}

// streams reads a resume table: ids rise.
func (d *decoder) streams() (out []ResumeStream) {
	n := d.count(ResumeStreamLen)
	if n > 0 {
		out = make([]ResumeStream, 0, n)
	}
	for range n {
		s := ResumeStream{ID: d.u32(), State: StreamState(d.u8()), Received: d.u64(), Credit: d.u64()}
		if s.State < StreamOpening || s.State > StreamBadOffset || s.ID == 0 || len(out) > 0 && s.ID <= out[len(out)-1].ID {
			d.err = ErrMessage
			return nil
		}
		out = append(out, s)
	}
	return out
}

// ResumeCode says why a link was not taken into a session.
type ResumeCode uint8

// The codes of ResumeFail. The first three end the session at the agent, the fourth its link only, the fifth asks to
// come again.
const (
	ResumeUnknown  ResumeCode = 1 + iota // no such session here
	ResumeExpired                        // it had no link for longer than its grace
	ResumeNotOwner                       // it is another agent's
	ResumeStale                          // a set with this epoch or a higher one is there already
	ResumeRetry                          // not now: too many at once
)

func (c ResumeCode) String() string {
	switch c {
	case ResumeUnknown:
		return "unknown session"
	case ResumeExpired:
		return "the session has expired"
	case ResumeNotOwner:
		return "the session belongs to another agent"
	case ResumeStale:
		return "stale epoch"
	case ResumeRetry:
		return "come again later"
	}
	return "unknown code"
}

// Final reports whether the session is over for the agent.
func (c ResumeCode) Final() bool { return c >= ResumeUnknown && c <= ResumeNotOwner }

// ResumeFail refuses an ATTACH or a RESUME; what follows on the link is discarded.
type ResumeFail struct {
	Code  ResumeCode
	After time.Duration // ResumeRetry: how long to wait
}

func (*ResumeFail) Type() FrameType { return TypeResumeFail }
func (m *ResumeFail) AppendPayload(b []byte) []byte {
	return appendMillis(append(b, byte(m.Code)), m.After)
}
func (m *ResumeFail) parse(d *decoder) {
	m.Code, m.After = ResumeCode(d.u8()), d.millis()
	if m.Code < ResumeUnknown || m.Code > ResumeRetry {
		d.err = ErrMessage
	}
}
