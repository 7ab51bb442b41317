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

	mu          sync.Mutex
	typed, seen int
	wrong       string
}

func line(i int) string { return fmt.Sprintf("line %d", i) }

// Counts are how many lines were typed and how many came back, each in its turn; wrong says which did not.
func (y *Typist) Counts() (typed, seen int, wrong string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.typed, y.seen, y.wrong
}

// Type types a line each time until ctx is done.
func (y *Typist) Type(ctx context.Context, to io.Writer, every time.Duration) error {
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
	s := bufio.NewScanner(screen)
	for s.Scan() {
		text := strings.TrimSpace(s.Text())
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
