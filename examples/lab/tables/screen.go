package tables

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"migrationsensor/examples/lab/live"
)

// linesEvery is how often there is a line where there is no terminal.
const linesEvery = 5 * time.Second

// lines shows the run where there is no terminal.
func lines(ctx context.Context, out *os.File, p *progress, play func(context.Context) error) error {
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

// screen shows a bar on a terminal and leaves the last picture there.
func screen(ctx context.Context, out *os.File, p *progress, play func(context.Context) error) error {
	return live.Show(ctx, out, func() shown { return p.at(time.Now()) }, draw, play)
}

var (
	strong = lipgloss.NewStyle().Bold(true)
	faint  = lipgloss.NewStyle().Faint(true)
	green  = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
)

// draw is one picture of the run.
func draw(n shown) string {
	var s strings.Builder
	fmt.Fprintf(&s, "\n  %s%s\n\n", strong.Render("The paper's tables, side by side"), faint.Render("  on this machine's kernel; q stops"))
	fmt.Fprintf(&s, "  %s %3.0f %%  %s\n", green.Render(n.bar(40)), 100*n.share, faint.Render("about "+n.left.Round(time.Second).String()+" left"))
	fmt.Fprintf(&s, "  %s\n\n", n.now)
	for _, line := range n.said[max(0, len(n.said)-8):] {
		fmt.Fprintf(&s, "  %s\n", faint.Render("• "+line))
	}
	return s.String()
}
