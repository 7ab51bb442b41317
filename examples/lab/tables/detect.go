package tables

import (
	"bufio"
	"encoding/json"
	"io"
	"sync"
	"time"

	"migrationsensor/examples/lab/figures"
)

// detected is what became of the floods and of the spells of peace. Two floods may go on at once.
type detected struct {
	spells int

	mu         sync.Mutex
	delays     map[string][]time.Duration // of the floods that were found, by kind
	floods     map[string]int             // floods made, by kind
	spellsDone int
	alarms     map[string]int // in peace, by kind
}

func newDetected(spells int) *detected {
	return &detected{spells: spells, delays: map[string][]time.Duration{}, floods: map[string]int{}, alarms: map[string]int{}}
}

// flooded counts a flood, and its delay if it was found.
func (d *detected) flooded(kind string, found bool, delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.floods[kind]++
	if found {
		d.delays[kind] = append(d.delays[kind], delay)
	}
}

// peaceful counts a spell of peace, alarmed an alarm in one.
func (d *detected) peaceful() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spellsDone++
}

func (d *detected) alarmed(kind string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alarms[kind]++
}

// figures are the shares, delays and false alarms. complete is false if a flood or a spell is missing.
func (d *detected) figures() (out []figures.Figure, complete bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	complete = d.spellsDone == d.spells
	for _, kind := range kinds {
		found := figures.Share("detect.found", "ms", flooded, len(d.delays[kind]), d.floods[kind]).AtLeast(1)
		delay := figures.Times("detect.delay", "ms", flooded, d.delays[kind]).MaxAtMost(detectWithin)
		if d.floods[kind] < d.spells {
			complete = false
			found, delay = figures.Skip("detect.found", "ms", flooded, incomplete), figures.Skip("detect.delay", "ms", flooded, incomplete)
		}
		alarms := figures.Count("detect.false", "ms", peace, d.alarms[kind], d.spellsDone).AtMost(0)
		if d.spellsDone < d.spells {
			alarms = figures.Skip("detect.false", "ms", peace, incomplete)
		}
		for _, f := range []figures.Figure{found, delay, alarms} {
			out = append(out, f.Label("kind", kind))
		}
	}
	return out, complete
}

// alarm is a line of proxyd's log: the moment at which the detector found an attack.
type alarm struct {
	Time time.Time
	Msg  string
	Kind string
}

// alarmsIn reads the alarms out of proxyd's log; other lines don't matter.
func alarmsIn(log io.Reader) (all []alarm, err error) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var a alarm
		if json.Unmarshal(lines.Bytes(), &a) == nil && a.Msg == "attack detected" {
			all = append(all, a)
		}
	}
	return all, lines.Err()
}

// firstAlarm is the first alarm from from on, until to.
func firstAlarm(all []alarm, from, to time.Time) (alarm, bool) {
	for _, a := range all {
		if !a.Time.Before(from) && !a.Time.After(to) {
			return a, true
		}
	}
	return alarm{}, false
}
