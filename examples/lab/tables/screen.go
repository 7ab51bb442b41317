package tables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

// errQuit says that somebody pressed q.
var errQuit = errors.New("stopped from the keyboard")

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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	program := tea.NewProgram(&picture{now: p.at(time.Now()), quit: func() { cancel(errQuit) }}, tea.WithOutput(out), tea.WithoutSignalHandler())
	over := make(chan error, 1)
	go func() {
		_, err := program.Run()
		over <- err
	}()
	stop, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				program.Send(p.at(time.Now()))
				program.Quit()
				return
			case <-tick.C:
				program.Send(p.at(time.Now()))
			}
		}
	}()
	err := play(ctx)
	close(stop)
	<-sent
	if shownErr := <-over; err == nil && shownErr != nil {
		err = fmt.Errorf("screen: %w", shownErr)
	}
	if cause := context.Cause(ctx); errors.Is(cause, errQuit) {
		return cause
	}
	return err
}

// picture is bubbletea's model: the progress, drawn.
type picture struct {
	now   shown
	width int
	quit  func()
}

// Init has nothing to do.
func (p *picture) Init() tea.Cmd { return nil }

// Update takes what happened.
func (p *picture) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch m := msg.(type) {
	case shown:
		p.now = m
	case tea.WindowSizeMsg:
		p.width = m.Width
	case tea.KeyPressMsg:
		if k := m.String(); k == "q" || k == "ctrl+c" {
			p.quit()
		}
	}
	return p, nil
}

var (
	strong = lipgloss.NewStyle().Bold(true)
	faint  = lipgloss.NewStyle().Faint(true)
	green  = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
)

// View draws it.
func (p *picture) View() tea.View {
	n := p.now
	var s strings.Builder
	fmt.Fprintf(&s, "\n  %s%s\n\n", strong.Render("The paper's tables, side by side"), faint.Render("  on this machine's kernel; q stops"))
	fmt.Fprintf(&s, "  %s %3.0f %%  %s\n", green.Render(n.bar(40)), 100*n.share, faint.Render("about "+n.left.Round(time.Second).String()+" left"))
	fmt.Fprintf(&s, "  %s\n\n", n.now)
	for _, line := range n.said[max(0, len(n.said)-8):] {
		fmt.Fprintf(&s, "  %s\n", faint.Render("• "+line))
	}
	text := s.String()
	if p.width > 0 {
		text = lipgloss.NewStyle().MaxWidth(p.width).Render(text)
	}
	return tea.NewView(text)
}
