package paper

import (
	"net/netip"
	"time"
)

// Told is what became of one Dial, as far as it got.
type Told struct {
	Transferred bool           // a notification came
	To          netip.AddrPort // where the application's connection goes: P2, or P1 again
	Word        Word           // the secret word of the notification
	Spoke       bool           // P1 sent something that is no notification

	First  time.Duration // the handshake with P1
	Wait   time.Duration // the wait for a notification, and the close
	Second time.Duration // the handshake with To
}

// Total is the whole, as the application sees it in connect().
func (t Told) Total() time.Duration { return t.First + t.Wait + t.Second }
