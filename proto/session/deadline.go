package session

import "time"

// deadline is a read or write deadline of a stream, guarded by the session's lock.
type deadline struct {
	timer  *time.Timer
	set    int // counts settings, so that an old timer's late call changes nothing
	passed bool
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.set++
	d.passed = false
}

func (st *Stream) setLocked(d *deadline, t time.Time) {
	d.stop()
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		st.cond.Broadcast()
		return
	}
	set := d.set
	d.timer = time.AfterFunc(wait, func() {
		st.s.mu.Lock()
		defer st.s.mu.Unlock()
		if d.set == set {
			d.passed = true
			st.cond.Broadcast()
		}
	})
}

// SetDeadline sets both deadlines.
func (st *Stream) SetDeadline(t time.Time) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.setLocked(&st.readDeadline, t)
	st.setLocked(&st.writeDeadline, t)
	return nil
}

// SetReadDeadline sets when Read gives up.
func (st *Stream) SetReadDeadline(t time.Time) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.setLocked(&st.readDeadline, t)
	return nil
}

// SetWriteDeadline sets when Write gives up.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.setLocked(&st.writeDeadline, t)
	return nil
}
