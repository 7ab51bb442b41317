package proto

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"time"
)

// ErrMessage is a message that does not follow its layout.
var ErrMessage = errors.New("malformed message")

// decoder reads big-endian fields; after the first error everything it reads is zero. A value has one
// encoding only: what a decoder accepts is appended again as the same bytes.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || n > len(d.b) {
		d.err = ErrMessage
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) fill(dst []byte) { copy(dst, d.take(len(dst))) }

// bool reads one byte, 0 or 1.
func (d *decoder) bool() bool {
	b := d.u8()
	if b > 1 {
		d.err = ErrMessage
	}
	return b == 1
}

// bytes reads a length (2) and as many bytes; the result is a copy, nil when empty.
func (d *decoder) bytes() []byte {
	b := d.take(int(d.u16()))
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}

func (d *decoder) long() []byte {
	n := d.u32()
	if n > math.MaxInt32 {
		d.err = ErrMessage
		return nil
	}
	b := d.take(int(n))
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}

func (d *decoder) text() string { return string(d.take(int(d.u16()))) }

// count reads a number of things (2) that take at least size bytes each, so that a short message
// cannot claim many.
func (d *decoder) count(size int) int {
	n := int(d.u16())
	if n*size > len(d.b) {
		d.err = ErrMessage
		return 0
	}
	return n
}

func (d *decoder) millis() time.Duration { return time.Duration(d.u32()) * time.Millisecond }

func (d *decoder) seconds() time.Time { return time.Unix(int64(d.u64()), 0) }

// addr reads 16 bytes: IPv4 is mapped, all zero is no address.
func (d *decoder) addr() netip.Addr {
	var b [16]byte
	d.fill(b[:])
	if b == [16]byte{} {
		return netip.Addr{}
	}
	return netip.AddrFrom16(b).Unmap()
}

func (d *decoder) addrPort() netip.AddrPort {
	a := d.addr()
	p := d.u16()
	if !a.IsValid() {
		if p != 0 {
			d.err = ErrMessage // a port of nowhere
		}
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, p)
}

func (d *decoder) key() KeyID { return KeyID{Gen: d.u8(), Issuer: d.u8()} }

func (d *decoder) target() (t Target) {
	var a4 [4]byte
	var a6 [16]byte
	d.fill(a4[:])
	d.fill(a6[:])
	if a4 != [4]byte{} {
		t.Addr4 = netip.AddrFrom4(a4)
	}
	if a := netip.AddrFrom16(a6); a6 != [16]byte{} {
		if a.Is4In6() {
			d.err = ErrMessage
		}
		t.Addr6 = a
	}
	t.Port = d.u16()
	d.fill(t.Node[:])
	t.Key = d.key()
	t.Keys = d.admission()
	return t
}

func (d *decoder) admission() (a Admission) {
	d.fill(a.K[:])
	d.fill(a.Tag[:])
	d.fill(a.Handle[:])
	return a
}

// end reports the first error, or that something is left over.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		return ErrMessage
	}
	return d.err
}

func appendBytes(dst, b []byte) []byte {
	b = b[:min(len(b), math.MaxUint16)]
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(b))), b...)
}

func appendLong(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func appendText(dst []byte, s string) []byte { return appendBytes(dst, []byte(s)) }

// appendMillis writes whole milliseconds, cut to what fits (49 days).
func appendMillis(dst []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(min(max(d.Milliseconds(), 0), math.MaxUint32)))
}

func appendSeconds(dst []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(t.Unix()))
}

func appendAddr(dst []byte, a netip.Addr) []byte {
	var b [16]byte
	if a.IsValid() {
		b = a.As16()
	}
	return append(dst, b[:]...)
}

func appendAddrPort(dst []byte, a netip.AddrPort) []byte {
	if !a.Addr().IsValid() || a.Addr() == netip.IPv6Unspecified() {
		return append(dst, make([]byte, 18)...)
	}
	return binary.BigEndian.AppendUint16(appendAddr(dst, a.Addr()), a.Port())
}

func appendAdmission(dst []byte, a Admission) []byte {
	dst = append(dst, a.K[:]...)
	dst = append(dst, a.Tag[:]...)
	return append(dst, a.Handle[:]...)
}

func appendTarget(dst []byte, t Target) []byte {
	var a4 [4]byte
	var a6 [16]byte
	if a := t.Addr4.Unmap(); a.Is4() {
		a4 = a.As4()
	}
	if a := t.Addr6; a.Is6() && !a.Is4In6() {
		a6 = a.As16()
	}
	dst = append(dst, a4[:]...)
	dst = append(dst, a6[:]...)
	dst = binary.BigEndian.AppendUint16(dst, t.Port)
	dst = append(dst, t.Node[:]...)
	dst = append(dst, t.Key.Gen, t.Key.Issuer)
	return appendAdmission(dst, t.Keys)
}
