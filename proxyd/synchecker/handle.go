package synchecker

import (
	"bytes"
	"errors"
	"time"

	"migrationsensor/proto"
)

const (
	preambleLen = proto.PreambleLen
	sealedLen   = proto.SealedLen
)

// preambleMagic is how every preamble begins; the port's filters look for it.
var preambleMagic = [4]byte(proto.Preamble{}.Append(nil, proto.Admission{}, proto.NodeID{}))

// handle judges one frame; an answer goes to c.out. It reads no clock and no socket, and allocates
// nothing before a preamble's MAC was right.
func (c *Checker) handle(f *Frame, now time.Time) {
	c.n.frames.Add(1)
	mode := Mode(c.mode.Load())
	s := &c.seg
	switch {
	case mode == Off:
		c.n.ignored.Add(1)
	case !s.parse(f):
		c.n.malformed.Add(1)
	case s.dport != c.cfg.LinkPort || !c.local(s.dst):
		c.n.foreign.Add(1)
	case s.proto == protoUDP:
		c.knock(s, now)
	case s.flags&(flagSYN|flagACK|flagFIN|flagRST) == flagSYN:
		c.syn(s, mode, now)
	case mode == Dark:
		c.n.ignored.Add(1)
	case s.flags&(flagSYN|flagACK|flagRST) != flagACK:
		c.n.ignored.Add(1)
	case s.flags&flagFIN != 0:
		c.fin(s, now)
	case s.length > 0:
		c.first(s, now)
	default:
		c.n.ignored.Add(1) // a bare ACK: the client speaks first
	}
}

func (c *Checker) local(dst []byte) bool {
	for _, a := range c.cfg.Addrs {
		if len(dst) == 4 && a.Is4() {
			if b := a.As4(); bytes.Equal(b[:], dst) {
				return true
			}
		} else if len(dst) == 16 && a.Is6() {
			if b := a.As16(); bytes.Equal(b[:], dst) {
				return true
			}
		}
	}
	return false
}

// syn offers a cookie: always to a keyed SYN, else as the shares say.
func (c *Checker) syn(s *segment, mode Mode, now time.Time) {
	c.n.synSeen.Add(1)
	if c.cfg.Admitted(s.source()) {
		c.n.foreign.Add(1)
		return
	}
	keyed := len(s.data) >= preambleLen && c.keyed(s, mode, now)
	if mode == Dark || !c.chosen(s, keyed, now) {
		return
	}
	c.n.synAnswered.Add(1)
	// Never larger than the SYN: with any option a SYN has room for ours. Data it carried is not
	// acknowledged, so the client sends it again, behind the cookie.
	a := answer{seq: c.jar.cookie(s, now), ack: s.seq + 1, flags: flagSYN | flagACK}
	if s.options {
		a.mss = mss4
		if len(s.src) == 16 {
			a.mss = mss6
		}
	}
	c.answer(a, s)
}

// chosen says whether a SYN is answered.
func (c *Checker) chosen(s *segment, keyed bool, now time.Time) bool {
	class, share := classFresh, c.shares.Fresh
	switch {
	case keyed:
		class, share = classKeyed, 1
		c.load.Keyed++
	case c.repeats != nil && c.repeats.again(s, now):
		class, share = classAgain, c.shares.Again
		c.load.Again++
		c.n.synAgain.Add(1)
	default:
		c.load.Fresh++
	}
	switch {
	case share < 1 && c.cfg.Rand.Uint64()>>32 >= uint64(share*(1<<32)):
		c.n.synSampledOut.Add(1)
	case !c.egress.take(now, c.shares.Answers, class):
		c.n.synCapped.Add(1)
	default:
		if !keyed {
			c.load.Answered++
		}
		return true
	}
	return false
}

// keyed says whether a SYN's data is a preamble good enough for an answer: tag and time. Who can send
// from that address is shown by the cookie, so the MAC waits for that. At a hidden edge, which offers
// none, the whole preamble is checked and admits.
func (c *Checker) keyed(s *segment, mode Mode, now time.Time) bool {
	b := s.data[:preambleLen]
	if !c.cfg.Keys.CheckTag(b) {
		c.n.badTag.Add(1)
		return false
	}
	p, err := proto.ParsePreamble(b)
	if err != nil { // not after a right tag
		return false
	}
	if skew := now.Sub(p.Time); skew > proto.MaxSkew || skew < -proto.MaxSkew {
		c.n.keyedStale.Add(1)
		return false
	}
	a, ok := c.agents.allow(p.Handle, now)
	if !ok {
		c.n.keyedLimited.Add(1)
		return false
	}
	c.n.keyed.Add(1)
	if mode == Dark {
		c.admit(s, a, b, now, false)
	}
	return true
}

// knock admits the sender of a preamble in a datagram. It is never answered.
func (c *Checker) knock(s *segment, now time.Time) {
	if s.length != preambleLen || len(s.data) != preambleLen {
		c.n.short.Add(1)
		return
	}
	if !c.cfg.Keys.CheckTag(s.data) {
		c.n.badTag.Add(1)
		return
	}
	c.n.knocks.Add(1)
	p, err := proto.ParsePreamble(s.data)
	if err != nil { // not after a right tag
		return
	}
	a, ok := c.agents.allow(p.Handle, now)
	if !ok {
		c.n.knockLimited.Add(1)
		return
	}
	c.admit(s, a, s.data, now, true)
}

func (c *Checker) admit(s *segment, a *agent, b []byte, now time.Time, knock bool) {
	v, err := c.cfg.Keys.Verify(b, c.cfg.Node, now)
	if err != nil {
		c.countBad(err)
		return
	}
	from := s.source()
	switch {
	case (v.Kind == proto.KindKnock) != knock:
		c.n.badKind.Add(1)
	case !c.firstAddress(v, s, now):
		c.n.replays.Add(1)
	case !a.admit(from, now) && c.cfg.Admitted(from): // else the door did not open, or was closed for somebody else
		c.n.repeated.Add(1)
	default:
		c.n.admitted.Add(1)
		c.cfg.Admit(v, from)
	}
}

// firstAddress says whether the preamble's nonce was not used from another address before.
func (c *Checker) firstAddress(v proto.Verified, s *segment, now time.Time) bool {
	fresh, same := c.cfg.Nonces.Seen(v.Nonce, s.source(), now)
	return fresh || same
}

func (c *Checker) countBad(err error) {
	switch {
	case errors.Is(err, proto.ErrClock):
		c.n.clock.Add(1)
	case errors.Is(err, proto.ErrVersion):
		c.n.version.Add(1)
	case errors.Is(err, proto.ErrMAC):
		c.n.badMAC.Add(1)
	default:
		c.n.badTag.Add(1)
	}
}

// first answers a client's first flight with a sealed reply.
func (c *Checker) first(s *segment, now time.Time) {
	if len(s.data) < preambleLen || s.length > proto.FirstFlightMax {
		c.n.short.Add(1)
		return
	}
	// Admitted is not asked: who holds a cookie was answered by us, if not by the kernel.
	if !c.jar.opens(s, now) {
		c.n.cookiesBad.Add(1) // or a second segment, or a link that the kernel has
		return
	}
	c.n.cookiesOK.Add(1)
	b := s.data[:preambleLen]
	if !c.cfg.Keys.CheckTag(b) {
		c.n.badTag.Add(1)
		c.cfg.Stranger(s.source(), "bad_tag")
		return
	}
	v, err := c.cfg.Keys.Verify(b, c.cfg.Node, now)
	if err != nil {
		c.countBad(err)
	}
	switch {
	case errors.Is(err, proto.ErrMAC):
		c.cfg.Stranger(s.source(), "bad_mac")
	case errors.Is(err, proto.ErrClock):
		c.seal(s, b, v, proto.Reply{Kind: proto.ReplyReject, Code: proto.RejectClock, ServerTime: now})
	case errors.Is(err, proto.ErrVersion):
		c.seal(s, b, v, proto.Reply{Kind: proto.ReplyReject, Code: proto.RejectVersion})
	case err == nil:
		c.verified(s, b, v, now)
	}
}

func (c *Checker) verified(s *segment, b []byte, v proto.Verified, now time.Time) {
	switch {
	case v.Kind == proto.KindKnock:
		c.n.badKind.Add(1)
		return
	case !c.firstAddress(v, s, now):
		c.n.replays.Add(1)
		return
	case v.Kind == proto.KindEnrol && !c.enrols(s, now):
		c.n.enrolLimited.Add(1)
		return
	}
	r, ok := c.cfg.Verified(Client{Verified: v, From: s.from(), Local: s.local()})
	if !ok {
		c.n.unanswered.Add(1)
		return
	}
	c.n.transfers.Add(1)
	c.seal(s, b, v, r)
}

// enrols counts the proof of a token: first from its address, so that who floods with an open token
// takes nobody else's turn.
func (c *Checker) enrols(s *segment, now time.Time) bool {
	b := s.source().As16()
	if len(s.src) == 16 { // who has one address has its /64
		clear(b[8:])
	}
	_, ok := c.newcomers.take(c.jar.hide(b), now, enrolEach, enrolEachUp)
	return ok && c.enrol.take(now, enrolRate, enrolBurst)
}

// seal sends r in one segment that also ends the stream, so an ordinary client reads 256 bytes and
// EOF. Nothing in it depends on more than s and r: asked again, the same bytes go out.
func (c *Checker) seal(s *segment, preamble []byte, v proto.Verified, r proto.Reply) {
	sealed := r.Seal(preamble, v.Keys)
	c.answer(answer{
		seq: s.ack, ack: s.seq + uint32(s.length), flags: flagPSH | flagFIN | flagACK, data: sealed[:],
	}, s)
}

// fin lets the client's socket go; unanswered, it would repeat its FIN for a quarter of an hour. Only
// a FIN is answered so: RST for data would destroy a reply on its way.
func (c *Checker) fin(s *segment, now time.Time) {
	if !c.jar.ours(s, sealedLen+1, now) || c.cfg.Admitted(s.source()) {
		c.n.ignored.Add(1)
		return
	}
	c.n.resets.Add(1)
	c.answer(answer{seq: s.ack, flags: flagRST}, s)
}

func (c *Checker) answer(a answer, s *segment) {
	c.out = append(c.out, a.appendTo(c.bufs[len(c.out)][:0], s))
}
