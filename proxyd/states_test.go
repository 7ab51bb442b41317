package proxyd

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStates walks each edge of the table of states.
func TestStates(t *testing.T) {
	const quiet, deadline = 10 * time.Second, 30 * time.Second
	type step struct {
		why   string
		after time.Duration
		do    func(m *machine, now time.Time) []action
		want  State
		acts  []action
	}
	alarm := func(m *machine, now time.Time) []action { return m.alarm(now, "SYN 5000/s") }
	over := func(m *machine, now time.Time) []action { m.over(now); return nil }
	admit := func(m *machine, now time.Time) []action { m.admitted(now); return nil }
	drain := func(m *machine, now time.Time) []action { return m.drain(now, "maintenance") }
	undo := func(m *machine, now time.Time) []action { return m.undrain(now) }
	with := func(l load) func(*machine, time.Time) []action {
		return func(m *machine, now time.Time) []action { return m.advance(now, l) }
	}
	busy := load{clients: 2, carried: 3, unmoved: 2, replacement: true}
	acked := load{clients: 2, carried: 3, replacement: true}
	moved := load{replacement: true}
	alone := load{clients: 2, carried: 3, unmoved: 2}

	for _, tc := range []struct {
		name   string
		hidden bool
		steps  []step
	}{
		{"entry: attacked, all moved, suspended, quiet, active", false, []step{
			{"an entry starts active", 0, with(moved), Active, nil},
			{"an entry stays active while empty", time.Hour, with(moved), Active, nil},
			{"the alarm makes it defend", 0, alarm, Defending, []action{actDefend}},
			{"a second alarm starts no second round", 0, alarm, Defending, nil},
			{"it waits for those that have not moved", time.Second, with(busy), Defending, nil},
			{"old streams finish on it", time.Second, with(acked), Defending, nil},
			{"all moved and acknowledged suspends it", time.Second, with(moved), Suspended, []action{actSuspend}},
			{"quiet does not count while attacked", time.Hour, with(moved), Suspended, nil},
			{"the attack ends", 0, over, Suspended, nil},
			{"quiet begins", 0, with(moved), Suspended, nil},
			{"quiet is not over", quiet - 1, with(moved), Suspended, nil},
			{"quiet is over", 1, with(moved), Active, []action{actRelax}},
		}},
		{"entry: its replacement is attacked too", false, []step{
			{"alarm", 0, alarm, Defending, []action{actDefend}},
			{"all moved", time.Second, with(moved), Suspended, []action{actSuspend}},
			{"nobody is left to take newcomers (F42)", time.Second, with(alone), Defending, []action{actDefend, actForward, actAlone}},
			{"it says so once", time.Second, with(alone), Defending, nil},
			{"somebody is free again: it sends on", time.Second, with(busy), Defending, nil},
			{"all moved again", time.Second, with(moved), Suspended, []action{actSuspend}},
		}},
		{"entry: the deadline suspends it with streams left", false, []step{
			{"alarm", 0, alarm, Defending, []action{actDefend}},
			{"before the deadline", deadline - 1, with(acked), Defending, nil},
			{"at the deadline", 1, with(acked), Suspended, []action{actSuspend}},
			{"the attack ends", 0, over, Suspended, nil},
			{"quiet begins", 0, with(moved), Suspended, nil},
			{"it flares up again", quiet / 2, alarm, Suspended, nil},
			{"and ends", 0, over, Suspended, nil},
			{"quiet begins anew", 0, with(moved), Suspended, nil},
			{"the first quiet does not count", quiet / 2, with(moved), Suspended, nil},
			{"quiet is over", quiet / 2, with(moved), Active, []action{actRelax}},
		}},
		{"entry: no replacement, it stays and says so", false, []step{
			{"alarm", 0, alarm, Defending, []action{actDefend}},
			{"nobody can take over", time.Second, with(alone), Defending, []action{actAlone}},
			{"said once", time.Second, with(alone), Defending, nil},
			{"no deadline suspends it", time.Hour, with(alone), Defending, nil},
			{"the attack ends", 0, over, Defending, nil},
			{"quiet begins", 0, with(alone), Defending, nil},
			{"quiet is over", quiet, with(alone), Active, []action{actRelax}},
		}},
		{"entry: a replacement appears late", false, []step{
			{"alarm", 0, alarm, Defending, []action{actDefend}},
			{"nobody can take over", time.Hour, with(alone), Defending, []action{actAlone}},
			{"the deadline begins when somebody can", time.Second, with(acked), Defending, nil},
			{"and ends", deadline, with(acked), Suspended, []action{actSuspend}},
		}},
		{"hidden: admitted, empty, standby", true, []step{
			{"a hidden edge starts in standby", 0, with(moved), Standby, nil},
			{"an alarm in standby changes nothing: it is dark", 0, alarm, Standby, nil},
			{"and ends", 0, over, Standby, nil},
			{"the first admission", 0, admit, Active, nil},
			{"in use", time.Hour, with(busy), Active, nil},
			{"empty, quiet begins", 0, with(moved), Active, nil},
			{"another admission", quiet / 2, admit, Active, nil},
			{"quiet begins anew", 0, with(moved), Active, nil},
			{"not yet", quiet - 1, with(moved), Active, nil},
			{"quiet is over", 1, with(moved), Standby, nil},
		}},
		{"hidden: attacked in use, suspended, standby", true, []step{
			{"the first admission", 0, admit, Active, nil},
			{"alarm", 0, alarm, Defending, []action{actDefend}},
			{"all moved", time.Second, with(moved), Suspended, []action{actSuspend}},
			{"the attack ends", 0, over, Suspended, nil},
			{"quiet begins", 0, with(moved), Suspended, nil},
			{"quiet is over", quiet, with(moved), Standby, []action{actRelax}},
		}},
		{"entry: drained, and back into service", false, []step{
			{"an operator drains it", 0, drain, Draining, []action{actDrain}},
			{"its clients go", time.Second, with(busy), Draining, nil},
			{"it stays drained when they are gone", time.Hour, with(moved), Draining, nil},
			{"nobody to take over any more is no reason to end", time.Hour, with(alone), Draining, nil},
			{"drained again, to another place", 0, drain, Draining, []action{actDrain}},
			{"undone", 0, undo, Active, []action{actStay}},
			{"undone twice", 0, undo, Active, nil},
		}},
		{"entry: attacked while it drains", false, []step{
			{"an operator drains it", 0, drain, Draining, []action{actDrain}},
			{"the alarm makes it defend", time.Second, alarm, Defending, []action{actDefend}},
			{"drained once more changes nothing now", 0, drain, Defending, nil},
			{"all moved", time.Second, with(moved), Suspended, []action{actSuspend}},
			{"the attack ends", 0, over, Suspended, nil},
			{"quiet begins", 0, with(moved), Suspended, nil},
			{"it drains again, with its door open", quiet, with(moved), Draining, []action{actRelax, actDrain}},
			{"undone", 0, undo, Active, []action{actStay}},
		}},
		{"entry: undone during the attack", false, []step{
			{"alarm", 0, alarm, Defending, []action{actDefend}},
			{"an operator drains it", 0, drain, Defending, nil},
			{"all moved", time.Second, with(moved), Suspended, []action{actSuspend}},
			{"undone", 0, undo, Suspended, nil},
			{"the attack ends", 0, over, Suspended, nil},
			{"quiet begins", 0, with(moved), Suspended, nil},
			{"quiet is over", quiet, with(moved), Active, []action{actRelax}},
		}},
		{"hidden: drained in standby", true, []step{
			{"an operator drains it", 0, drain, Draining, []action{actDrain}},
			{"a client comes all the same", 0, admit, Draining, nil},
			{"undone", time.Second, undo, Active, []action{actStay}},
			{"empty, quiet begins", 0, with(moved), Active, nil},
			{"quiet is over", quiet, with(moved), Standby, nil},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := time.Unix(1_800_000_000, 0)
			m := newMachine(tc.hidden, quiet, deadline, now)
			for _, s := range tc.steps {
				now = now.Add(s.after)
				acts := s.do(m, now)
				if m.state != s.want || !slices.Equal(acts, s.acts) {
					t.Fatalf("%s: got %s with actions %v, want %s with %v", s.why, m.state, acts, s.want, s.acts)
				}
			}
		})
	}
}

// F43: an attack that goes on and off every 3 s is one round: clients are moved once, and nothing returns
// before it has been quiet for the whole time.
func TestFlappingAttackIsOneRound(t *testing.T) {
	const quiet = 10 * time.Second
	now := time.Unix(1_800_000_000, 0)
	m := newMachine(false, quiet, 30*time.Second, now)
	var acts []action
	for end := now.Add(10 * time.Minute); now.Before(end); now = now.Add(200 * time.Millisecond) {
		switch on := now.Unix()/3%2 == 0; {
		case on && !m.attacked:
			acts = append(acts, m.alarm(now, "SYN 5000/s")...)
		case !on && m.attacked:
			m.over(now)
		}
		acts = append(acts, m.advance(now, load{replacement: true})...)
	}
	if want := []action{actDefend, actSuspend}; !slices.Equal(acts, want) || m.state != Suspended {
		t.Errorf("ten minutes of on and off: %s with actions %v, want suspended with %v", m.state, acts, want)
	}
	m.over(now)
	m.advance(now, load{replacement: true})
	if acts := m.advance(now.Add(quiet), load{replacement: true}); m.state != Active || !slices.Equal(acts, []action{actRelax}) {
		t.Errorf("and then quiet: %s with actions %v, want active", m.state, acts)
	}
}

func TestWhyTellsTheAttack(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := newMachine(false, time.Second, time.Second, now)
	m.alarm(now, "SYN 5000/s, threshold 500/s")
	m.advance(now, load{replacement: true})
	if !strings.Contains(m.why, "SYN 5000/s") || m.state != Suspended {
		t.Errorf("got %s because %q, want suspended because of the SYN flood", m.state, m.why)
	}
}
