package paper

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"
)

// Assumed gathers everything that the paper does not say. The zero value is of no use: see Assume.
type Assumed struct {
	// RTT is the round trip between client and proxy, from which ReceiveTimeout follows.
	RTT time.Duration
	// ReceiveTimeout is how long the client waits for a notification after the first handshake. The
	// first bytes that are no notification (a server that speaks first) end the wait too.
	ReceiveTimeout time.Duration
	// FirstLimit bounds the first handshake: less than the second after which the kernel repeats a
	// SYN, so a try is one SYN. Repeating is the user's.
	FirstLimit time.Duration
	// SecondLimit bounds the second handshake, with P1 or P2: the application's own connect(), whose
	// SYNs the kernel repeats as ever.
	SecondLimit time.Duration
	// PreFilter is how many SYN/s the firewall in front of the SYN Checker lets pass, the first Burst of
	// each Burst/PreFilter seconds. 0 is no firewall.
	PreFilter float64
	Burst     int
	// RatifiedFor is how long P2 admits a client after a ratification, RatifiedMax how many at a time.
	RatifiedFor time.Duration
	RatifiedMax int
	// Key is shared by client and P1; how it came to both is not the paper's subject.
	Key Key
}

// What is inferred, and what is ours.
const (
	inferredTimeout = 15800 * time.Microsecond // the paper's Table 3: 47.4 − 2 · 15.8
	inferredFilter  = 24                       // the paper's Table 5: 2.4 % of 1,000 SYN/s at p = 1

	// timeoutRTTs is k in: the receive timeout is at least k round trips. A notification comes one
	// round trip after connect() has returned, so k = 1 would miss most. In the lab, at 15 ms and with
	// 1,000 SYN/s beside it, 99 of 100 came within 1.25 round trips. A larger k would make the paper's
	// client look worse than it must: in peace every connection waits all of it.
	timeoutRTTs = 1.25
)

// Assume gives the defaults for a round trip. The key is left to the caller.
func Assume(rtt time.Duration) Assumed {
	return Assumed{
		RTT:            rtt,
		ReceiveTimeout: max(inferredTimeout, time.Duration(timeoutRTTs*float64(rtt))),
		FirstLimit:     950 * time.Millisecond,
		SecondLimit:    3 * time.Second,
		PreFilter:      inferredFilter,
		Burst:          10, // windows of 417 ms: in step with no second of a client that tries again
		RatifiedFor:    30 * time.Second,
		RatifiedMax:    4096,
	}
}

// Lines says for people what was assumed and why, one assumption a line.
func (a Assumed) Lines() []string {
	filter := fmt.Sprintf("firewall before the SYN Checker: %g SYN/s pass, whoever sent them, the first %d of each %s; not given, %d of 1,000 explains Table 5's 2.4 %% at p = 1",
		a.PreFilter, a.Burst, ms(a.window()), inferredFilter)
	if a.PreFilter == 0 {
		filter = "firewall before the SYN Checker: none in this run"
	}
	return []string{
		fmt.Sprintf("receive timeout: %s; not given, Table 3 implies %s (47.4 − 2 · 15.8), and it must be longer than the round trip of %s for a notification to arrive: at least %g round trips",
			ms(a.ReceiveTimeout), ms(inferredTimeout), ms(a.RTT), timeoutRTTs),
		"bytes that are no notification (a server that speaks first): end the wait, the client connects again",
		fmt.Sprintf("first handshake: one SYN, given up after %s; no retries in the client, a retry is the user's", ms(a.FirstLimit)),
		fmt.Sprintf("second handshake (P1 again, or P2): an ordinary connect of at most %s", ms(a.SecondLimit)),
		"a notification that is late: lost; the second handshake goes to the attacked P1, which forwards nothing",
		filter,
		"sampling: each SYN that passes is answered with probability p, a repeated one drawn for again",
		"rule for the ACK: ack − 1 is a keyed hash of the addresses and ports, so P1 keeps no state",
		"notification: one segment with FIN, AES-256-GCM under a key that client and P1 share, sent once P2 has approved, not repeated",
		"secret word: random 16 bytes for each notification, carried to the client and to P2; the application's bytes are not changed, so nobody asks for it",
		fmt.Sprintf("P2 admits a ratified address: for %s, at most %d addresses; it accepts and resets the others", a.RatifiedFor, a.RatifiedMax),
	}
}

// window is the time of which the firewall lets the first Burst SYNs pass.
func (a Assumed) window() time.Duration {
	return time.Duration(float64(a.Burst) / a.PreFilter * float64(time.Second)).Round(time.Millisecond)
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%g ms", float64(d)/float64(time.Millisecond))
}

// Key seals notifications.
type Key [32]byte

// LoadKey reads a key, 64 hexadecimal digits, from a file.
func LoadKey(file string) (k Key, err error) {
	if file == "" {
		return k, fmt.Errorf("no file named: a key is %d hexadecimal digits", 2*len(k))
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return k, err
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("%s: a key is %d hexadecimal digits (openssl rand -hex %d)", file, 2*len(k), len(k))
	}
	return Key(b), nil
}
