package app

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Typist types numbered lines at a terminal and waits for each to be echoed by the far end. A line is typed in its rhythm, whether
// or not those before it came back, as one does who has not seen yet that the screen stands still.
type Typist struct {
	Trace

	ready       chan struct{} // closed when the far end has said that it is
	mu          sync.Mutex
	typed, seen int
	wrong       string
}

// Ready is the line by which the far end says that it is there: what is typed before is echoed by the near end's terminal.
const Ready = "ready"

// NewTypist returns one that has typed nothing.
func NewTypist() *Typist { return &Typist{ready: make(chan struct{})} }

func line(i int) string { return fmt.Sprintf("line %d", i) }

// Counts are how many lines were typed and how many came back, each in its turn; wrong says which did not.
func (y *Typist) Counts() (typed, seen int, wrong string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.typed, y.seen, y.wrong
}

// Type types a line each time, from when the far end is ready until ctx is done.
func (y *Typist) Type(ctx context.Context, to io.Writer, every time.Duration) error {
	select {
	case <-y.ready:
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		y.mu.Lock()
		n := y.typed
		y.typed++
		y.mu.Unlock()
		if _, err := io.WriteString(to, line(n)+"\n"); err != nil {
			return fmt.Errorf("type %q: %w", line(n), err)
		}
	}
}

// Watch reads the screen until it ends. The terminal shows every line as the far end echoes it; what else is there, such as a
// prompt, is passed over.
func (y *Typist) Watch(screen io.Reader) error {
	s, isReady := bufio.NewScanner(screen), false
	for s.Scan() {
		text := strings.TrimSpace(s.Text())
		if text == Ready && !isReady {
			isReady = true
			close(y.ready)
		}
		if !strings.HasPrefix(text, "line ") {
			continue
		}
		y.mu.Lock()
		if want := line(y.seen); text == want {
			y.seen++
			y.Add(time.Now())
		} else if y.wrong == "" {
			y.wrong = fmt.Sprintf("the screen shows %q, want %q", text, want)
		}
		y.mu.Unlock()
	}
	return s.Err()
}
