package container

import (
	"fmt"
	"sync"
	"time"

	"migrationsensor/examples/lab/app"
)

// progress is a connection that goes on, as one sees it each second.
type progress struct {
	mu    sync.Mutex
	trace *app.Trace // nil: it does not go on
	since time.Time
	usual time.Duration // between two arrivals
}

// start begins a new one.
func (p *progress) start(usual time.Duration) *app.Trace {
	t := new(app.Trace)
	p.follow(t, usual)
	return t
}

func (p *progress) follow(t *app.Trace, usual time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trace, p.since, p.usual = t, time.Now(), usual
}

func (p *progress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trace = nil
}

// text says how it went between two moments, and forgets what was before.
func (p *progress) text(from, to time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trace == nil {
		return "begins"
	}
	longest, _ := p.trace.Longest(from, to)
	p.trace.Forget(from)
	text := fmt.Sprintf("goes on for %.0f s", to.Sub(p.since).Seconds())
	if stall := app.Stall(longest, p.usual); stall > 50*time.Millisecond {
		text += fmt.Sprintf(", stood still for %.0f ms", ms(stall))
	}
	return text
}
