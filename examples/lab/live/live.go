// Package live shows a run of the lab on a terminal while it goes on.
package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

// ErrQuit says that somebody pressed q.
var ErrQuit = errors.New("stopped from the keyboard")

// every is how often there is a new picture.
const every = 100 * time.Millisecond

// Show plays and meanwhile draws what now returns; the last picture stays on the terminal. The context of play ends
// with ErrQuit when somebody presses q or Ctrl-C. It returns when play has.
func Show[S any](ctx context.Context, out *os.File, now func() S, draw func(S) string, play func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &picture[S]{now: now(), draw: draw, quit: func() { cancel(ErrQuit) }}
	program := tea.NewProgram(p, tea.WithOutput(out), tea.WithoutSignalHandler())
	over := make(chan error, 1)
	go func() {
		_, err := program.Run()
		over <- err
	}()
	stop, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				program.Send(now())
				program.Quit()
				return
			case <-tick.C:
				program.Send(now())
			}
		}
	}()
	err := play(ctx)
	close(stop)
	<-sent
	if shown := <-over; err == nil && shown != nil {
		err = fmt.Errorf("screen: %w", shown)
	}
	if cause := context.Cause(ctx); errors.Is(cause, ErrQuit) {
		return cause
	}
	return err
}

// picture is bubbletea's model: the last state, drawn.
type picture[S any] struct {
	now           S
	width, height int // 0: not known
	draw          func(S) string
	quit          func()
}

// Init has nothing to do.
func (p *picture[S]) Init() tea.Cmd { return nil }

// Update takes what happened.
func (p *picture[S]) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch m := msg.(type) {
	case S:
		p.now = m
	case tea.WindowSizeMsg:
		p.width, p.height = m.Width, m.Height
	case tea.KeyPressMsg:
		if k := m.String(); k == "q" || k == "ctrl+c" {
			p.quit()
		}
	}
	return p, nil
}

// View draws it, cut to the terminal at the right and at the bottom: what is at the top stays in sight.
func (p *picture[S]) View() tea.View {
	text := p.draw(p.now)
	if p.width > 0 {
		text = lipgloss.NewStyle().MaxWidth(p.width).MaxHeight(p.height).Render(text) // no limit of height: 0
	}
	return tea.NewView(text)
}
