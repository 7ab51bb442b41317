package live

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"
)

// Part is a piece of a run: so many units, each about so long.
type Part struct {
	Name  string
	Units int
	Each  time.Duration // estimated
	done  int
}

// Progress is how far a run is. The run writes it, the screen reads it.
type Progress struct {
	title string

	mu    sync.Mutex
	began time.Time
	parts []*Part
	now   string // what is done at this moment
	said  []string
}

// NewProgress begins a run.
func NewProgress(title string, parts ...Part) *Progress {
	p := &Progress{title: title, began: time.Now()}
	for _, x := range parts {
		p.parts = append(p.parts, &x)
	}
	return p
}

// Enter says what is done from now on.
func (p *Progress) Enter(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = fmt.Sprintf(format, args...)
}

// Did counts a unit of a part.
func (p *Progress) Did(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.parts {
		if x.Name == name {
			x.done = min(x.done+1, x.Units)
		}
	}
}

// Finish counts all of a part: it is over, or will not be done.
func (p *Progress) Finish(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.parts {
		if x.Name == name {
			x.done = x.Units
		}
	}
}

// Say tells of something that people would want to know.
func (p *Progress) Say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said, fmt.Sprintf(format, args...))
}

// shown is a progress at one moment.
type shown struct {
	title string
	share float64 // 0 to 1
	took  time.Duration
	left  time.Duration
	now   string
	said  []string
}

// at is how far it is. The time left follows from the estimates, corrected by how right they have
// been once a tenth is done.
func (p *Progress) at(now time.Time) shown {
	p.mu.Lock()
	defer p.mu.Unlock()
	var done, all time.Duration
	for _, x := range p.parts {
		done += time.Duration(x.done) * x.Each
		all += time.Duration(x.Units) * x.Each
	}
	s := shown{
		title: p.title, share: float64(done) / float64(all), took: now.Sub(p.began), left: all - done,
		now: p.now, said: p.said[:len(p.said):len(p.said)],
	}
	if s.share > 0.1 {
		s.left = time.Duration(float64(s.left) * float64(s.took) / float64(done))
	}
	return s
}

// line is what is shown where there is no terminal.
func (s shown) line() string {
	return fmt.Sprintf("[%5.1fs] %3.0f %%  %s  (about %s left)", s.took.Seconds(), 100*s.share, s.now, s.left.Round(time.Second))
}

// bar draws the share in so many characters.
func (s shown) bar(width int) string {
	full := min(width, max(0, int(s.share*float64(width))))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// linesEvery is how often there is a line where there is no terminal.
const linesEvery = 5 * time.Second

// Play plays a run and shows its progress: on a terminal a bar whose last picture stays, elsewhere lines.
func (p *Progress) Play(ctx context.Context, out *os.File, play func(context.Context) error) error {
	if term.IsTerminal(int(out.Fd())) {
		return Show(ctx, out, func() shown { return p.at(time.Now()) }, draw, play)
	}
	return p.lines(ctx, out, play)
}

func (p *Progress) lines(ctx context.Context, out io.Writer, play func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- play(ctx) }()
	tick := time.NewTicker(linesEvery)
	defer tick.Stop()
	told := 0
	for {
		select {
		case err := <-done:
			tell(out, p.at(time.Now()), &told)
			return err
		case <-tick.C:
			s := p.at(time.Now())
			tell(out, s, &told)
			fmt.Fprintln(out, s.line())
		}
	}
}

func tell(out io.Writer, s shown, told *int) {
	for _, line := range s.said[*told:] {
		fmt.Fprintf(out, "• %s\n", line)
	}
	*told = len(s.said)
}

var (
	strong = lipgloss.NewStyle().Bold(true)
	faint  = lipgloss.NewStyle().Faint(true)
	green  = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
)

// draw is one picture of the run.
func draw(n shown) string {
	var s strings.Builder
	fmt.Fprintf(&s, "\n  %s%s\n\n", strong.Render(n.title), faint.Render("  on this machine's kernel; q stops"))
	fmt.Fprintf(&s, "  %s %3.0f %%  %s\n", green.Render(n.bar(40)), 100*n.share, faint.Render("about "+n.left.Round(time.Second).String()+" left"))
	fmt.Fprintf(&s, "  %s\n\n", n.now)
	for _, line := range n.said[max(0, len(n.said)-8):] {
		fmt.Fprintf(&s, "  %s\n", faint.Render("• "+line))
	}
	return s.String()
}
