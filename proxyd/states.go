package proxyd

import (
	"fmt"
	"time"
)

// State is where a proxy stands (ARCHITECTURE, States of a proxy).
//
//	            first admission            alarm
//	standby ───────────────────► active ──────────► defending ──┐ no replacement: it stays,
//	   ▲  ◄───────────────────────┘  ▲                 │  ▲     │ until quiet → active
//	   │     hidden, empty, quiet    │ quiet (entry)   │  └─────┘
//	   │                             │                 ▼ all moved, or the deadline
//	   └──────────── quiet (hidden) ─┴──────────── suspended
//
// An operator may take a proxy out of service: from standby and active it becomes draining, which is
// defending without an attack, and it stays so. An attack makes it defend like any other; when that is
// over it drains again.
type State string

// The states, as status shows them.
const (
	Standby   State = "standby"   // hidden only: dark to everybody but admitted clients
	Active    State = "active"    // serves
	Defending State = "defending" // attacked: its clients are being sent on
	Suspended State = "suspended" // the paper's temporary suspension: off the path
	Draining  State = "draining"  // an operator sends its clients on; the door is as in peace
)

// action is what the proxy has to do after an event. The machine does nothing itself.
type action int

const (
	actDefend  action = iota // close the door to strangers, start the SYN Checker, migrate
	actSuspend               // give up what is left, forward nothing
	actRelax                 // open as in peace, forward again
	actAlone                 // say loudly that nobody can take over
	actForward               // forward again what a suspension had stopped
	actDrain                 // begin a round without an attack: nothing at the door changes
	actStay                  // the round of an operator is over: clients stay
)

// machine is the proxy's state. It reads no clock and owns nothing; its owner calls it under a lock
// and carries out the actions.
type machine struct {
	hidden       bool
	quiet        time.Duration // without attack (and clients) before it returns
	suspendAfter time.Duration // deadline for links that go on through an attacked proxy

	state    State
	since    time.Time
	why      string
	deadline time.Time // defending: when what is left is given up
	calm     time.Time // since when nothing argues against returning; zero: something does
	attacked bool
	alone    bool   // defending with no replacement
	drained  string // why an operator sends its clients on; empty: he does not
}

func newMachine(hidden bool, quiet, suspendAfter time.Duration, now time.Time) *machine {
	m := &machine{hidden: hidden, quiet: quiet, suspendAfter: suspendAfter}
	if hidden {
		m.set(Standby, now, "hidden, nobody admitted")
	} else {
		m.set(Active, now, "entry, no attack")
	}
	return m
}

// set is the only place that writes the state.
func (m *machine) set(s State, now time.Time, why string) {
	m.state, m.since, m.why = s, now, why
	m.calm = time.Time{}
}

// alarm: the detector found an attack. why names kind, rate and threshold.
func (m *machine) alarm(now time.Time, why string) []action {
	m.attacked = true
	switch m.state {
	case Active, Draining:
		m.set(Defending, now, why)
		m.deadline = now.Add(m.suspendAfter)
		m.alone = false
		return []action{actDefend}
	case Standby: // it is dark: there is nobody to move and nothing to answer
	case Defending, Suspended:
		m.why = why
		m.calm = time.Time{}
	default:
		panic(fmt.Sprintf("BUG: unhandled state %q", m.state))
	}
	return nil
}

// over: the detector has seen nothing above its thresholds.
func (m *machine) over(time.Time) { m.attacked = false }

// admitted: a client was let in (RATIFY, USERINFO, knock, keyed SYN), or an operator asked.
func (m *machine) admitted(now time.Time) {
	m.calm = time.Time{}
	if m.state == Standby {
		m.set(Active, now, "a client was admitted")
	}
}

// drain: an operator takes the proxy out of service until undrain.
func (m *machine) drain(now time.Time, why string) []action {
	m.drained = why
	switch m.state {
	case Standby, Active, Draining: // a second time: to another place
		m.set(Draining, now, why)
		return []action{actDrain}
	case Defending, Suspended: // its clients are being sent on already; it drains when that is over
	default:
		panic(fmt.Sprintf("BUG: unhandled state %q", m.state))
	}
	return nil
}

// undrain puts it back into service. A hidden one is in standby again when it is empty.
func (m *machine) undrain(now time.Time) []action {
	m.drained = ""
	if m.state != Draining {
		return nil
	}
	m.set(Active, now, "an operator put it back into service")
	return []action{actStay}
}

// load is what a proxy still carries.
type load struct {
	clients     int  // connected agents
	carried     int  // data links through it, and plain connections that a suspension ends
	unmoved     int  // connected agents that have not acknowledged their move
	admitted    int  // addresses whose door is open
	replacement bool // some neighbour may take clients
}

// advance is called when time passes or the load changes.
func (m *machine) advance(now time.Time, l load) []action {
	switch m.state {
	case Standby, Draining:
	case Active:
		if m.hidden && l.clients == 0 && l.carried == 0 && l.admitted == 0 && !m.attacked {
			if m.calmFor(now) {
				m.set(Standby, now, "hidden and empty for the quiet time")
			}
			return nil
		}
		m.calm = time.Time{}
	case Defending:
		return m.advanceDefending(now, l)
	case Suspended:
		if !l.replacement { // those that it sends on would have nowhere to go
			m.set(Defending, now, m.why+"; then no replacement was left: it stays and admits verified clients itself")
			m.deadline, m.alone = now.Add(m.suspendAfter), true
			return []action{actDefend, actForward, actAlone}
		}
		if m.attacked {
			m.calm = time.Time{}
			return nil
		}
		if m.calmFor(now) {
			return m.comeBack(now)
		}
	default:
		panic(fmt.Sprintf("BUG: unhandled state %q", m.state))
	}
	return nil
}

func (m *machine) advanceDefending(now time.Time, l load) []action {
	if !l.replacement {
		if !m.attacked && m.calmFor(now) {
			return m.comeBack(now)
		}
		m.deadline = now.Add(m.suspendAfter) // it begins when there is somewhere to go
		if m.alone {
			return nil
		}
		m.alone = true
		m.why += "; no replacement: it stays and admits verified clients itself"
		return []action{actAlone}
	}
	m.alone = false
	switch {
	case l.unmoved == 0 && l.carried == 0:
		m.set(Suspended, now, m.why+"; every client has moved")
	case !now.Before(m.deadline):
		m.set(Suspended, now, fmt.Sprintf("%s; deadline of %s over with %d links and connections left", m.why, m.suspendAfter, l.carried))
	default:
		return nil
	}
	return []action{actSuspend}
}

// comeBack ends a round: the proxy is what it was before.
func (m *machine) comeBack(now time.Time) []action {
	quiet := fmt.Sprintf("quiet for %s", m.quiet)
	switch {
	case m.drained != "":
		m.set(Draining, now, m.drained)
		return []action{actRelax, actDrain}
	case m.hidden:
		m.set(Standby, now, quiet)
	default:
		m.set(Active, now, quiet)
	}
	return []action{actRelax}
}

// calmFor reports whether it has been calm for the quiet time, and starts counting if it just began.
func (m *machine) calmFor(now time.Time) bool {
	if m.calm.IsZero() {
		m.calm = now
	}
	return now.Sub(m.calm) >= m.quiet
}
