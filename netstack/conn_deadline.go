package netstack

import (
	"sync"
	"time"
)

// deadline is a time after which a channel is closed; it can be set again at any moment.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	gone  chan struct{}
}

func (d *deadline) init() { d.gone = make(chan struct{}) }

// passed returns the channel of the deadline as it is now.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.gone // the timer has fired and is closing, or has closed, this channel
	}
	d.timer = nil

	closed := false
	select {
	case <-d.gone:
		closed = true
	default:
	}
	if t.IsZero() {
		if closed {
			d.gone = make(chan struct{})
		}
		return
	}
	if wait := time.Until(t); wait > 0 {
		if closed {
			d.gone = make(chan struct{})
		}
		gone := d.gone
		d.timer = time.AfterFunc(wait, func() { close(gone) })
		return
	}
	if !closed {
		close(d.gone)
	}
}
