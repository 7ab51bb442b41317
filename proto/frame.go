package proto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Sizes of frames: one frame fills one TLS record.
const (
	HeaderLen  = 16
	MaxPayload = 16368
)

// FlagMore marks a message that goes on in the next frame of its type.
const FlagMore = 1

// FrameType is the first byte of a frame.
type FrameType uint8

// The frames: of a session, of a control link, of an enrol link, between nodes. Numbers are final.
const (
	TypeSession    FrameType = 0x01
	TypeSessionOK  FrameType = 0x02
	TypeAttach     FrameType = 0x03
	TypeAttachOK   FrameType = 0x04
	TypeResume     FrameType = 0x05
	TypeResumeOK   FrameType = 0x06
	TypeResumeFail FrameType = 0x07
	TypeEnd        FrameType = 0x08

	TypeOpen     FrameType = 0x10
	TypeOpenOK   FrameType = 0x11
	TypeOpenFail FrameType = 0x12
	TypeData     FrameType = 0x13
	TypeAck      FrameType = 0x14
	TypeFin      FrameType = 0x15
	TypeRst      FrameType = 0x16
	TypeDgram    FrameType = 0x17

	TypePing FrameType = 0x20
	TypePong FrameType = 0x21
	TypePad  FrameType = 0x22

	TypeEnrol     FrameType = 0x30
	TypeEnrolOK   FrameType = 0x31
	TypeEnrolFail FrameType = 0x32

	TypeMigrate   FrameType = 0x40
	TypeMigrateOK FrameType = 0x41
	TypeCatalogue FrameType = 0x42
	TypeKeys      FrameType = 0x43
	TypeRenew     FrameType = 0x44
	TypeRenewOK   FrameType = 0x45
	TypeGoAway    FrameType = 0x46
	TypeBoot      FrameType = 0x47
	TypeStandby   FrameType = 0x48

	TypeHello      FrameType = 0x60
	TypeUserInfo   FrameType = 0x61
	TypeUserInfoOK FrameType = 0x62
	TypeRatify     FrameType = 0x63
	TypeRatifyOK   FrameType = 0x64
	TypeBusy       FrameType = 0x65
	TypeSign       FrameType = 0x66
	TypeSignOK     FrameType = 0x67
	TypeHandover   FrameType = 0x68
	TypeFleet      FrameType = 0x69
	TypeHeartbeat  FrameType = 0x6A
	TypeRevoke     FrameType = 0x6B
)

// Header begins every frame: type 1 | flags 1 | length 2 | stream 4 | offset 8. Stream and offset mean
// something in frames of a stream; between nodes, stream matches an answer to its question.
type Header struct {
	Type   FrameType
	Flags  uint8
	Length uint16
	Stream uint32
	Offset uint64
}

// ErrFrame is a frame that does not follow the layout, or is longer than its reader allows.
var ErrFrame = errors.New("malformed frame")

// Append appends the 16 bytes of the header.
func (h Header) Append(dst []byte) []byte {
	dst = append(dst, byte(h.Type), h.Flags)
	dst = binary.BigEndian.AppendUint16(dst, h.Length)
	dst = binary.BigEndian.AppendUint32(dst, h.Stream)
	return binary.BigEndian.AppendUint64(dst, h.Offset)
}

// ParseHeader reads a header from the first 16 bytes of b.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, fmt.Errorf("header of %d bytes: %w", len(b), ErrFrame)
	}
	h := Header{
		Type: FrameType(b[0]), Flags: b[1], Length: binary.BigEndian.Uint16(b[2:]),
		Stream: binary.BigEndian.Uint32(b[4:]), Offset: binary.BigEndian.Uint64(b[8:]),
	}
	if h.Length > MaxPayload {
		return Header{}, fmt.Errorf("payload of %d bytes: %w", h.Length, ErrFrame)
	}
	return h, nil
}

// Reader reads frames from one link. It is owned by the link's one reading goroutine.
type Reader struct {
	r   io.Reader
	max int
	buf [HeaderLen + MaxPayload]byte
}

// NewReader returns a Reader whose joined messages have at most max bytes.
func NewReader(r io.Reader, max int) *Reader { return &Reader{r: r, max: max} }

// Next reads one frame. The payload is valid until the next call. The error is io.EOF only between
// frames.
func (r *Reader) Next() (Header, []byte, error) {
	if _, err := io.ReadFull(r.r, r.buf[:HeaderLen]); err != nil {
		return Header{}, nil, err
	}
	h, err := ParseHeader(r.buf[:])
	if err != nil {
		return Header{}, nil, err
	}
	payload := r.buf[HeaderLen : HeaderLen+int(h.Length)]
	if _, err := io.ReadFull(r.r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Header{}, nil, err
	}
	return h, payload, nil
}

// Read reads one whole message and the stream number of its frames.
func (r *Reader) Read() (Message, uint32, error) {
	h, b, err := r.Next()
	if err != nil {
		return nil, 0, err
	}
	if h.Flags&FlagMore == 0 {
		m, err := ParseMessage(h.Type, b)
		return m, h.Stream, err
	}
	whole := append([]byte(nil), b...)
	for first := h; h.Flags&FlagMore != 0; {
		h, b, err = r.Next()
		if err != nil {
			return nil, 0, err
		}
		if h.Type != first.Type || h.Stream != first.Stream || len(b) == 0 || len(whole)+len(b) > r.max {
			return nil, 0, fmt.Errorf("message of type %#x over %d bytes or mixed: %w", first.Type, r.max, ErrFrame)
		}
		whole = append(whole, b...)
	}
	m, err := ParseMessage(h.Type, whole)
	return m, h.Stream, err
}

// Message reads one whole message.
func (r *Reader) Message() (Message, error) {
	m, _, err := r.Read()
	return m, err
}

// AppendMessage appends the frames of a message; stream is 0 but between nodes.
func AppendMessage(dst []byte, m Message, stream uint32) []byte {
	b := m.AppendPayload(nil)
	for {
		n := min(len(b), MaxPayload)
		h := Header{Type: m.Type(), Length: uint16(n), Stream: stream}
		if n < len(b) {
			h.Flags = FlagMore
		}
		dst = append(h.Append(dst), b[:n]...)
		if b = b[n:]; len(b) == 0 {
			return dst
		}
	}
}

// WriteMessage writes a message in one Write.
func WriteMessage(w io.Writer, m Message) error {
	_, err := w.Write(AppendMessage(nil, m, 0))
	return err
}
