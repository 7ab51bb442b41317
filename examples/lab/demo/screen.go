package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

// errQuit says that somebody pressed q.
var errQuit = errors.New("stopped from the keyboard")

// screen shows the run live on a terminal and leaves the last picture there.
func screen(ctx context.Context, out *os.File, b *board, play func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	program := tea.NewProgram(&picture{now: b.snapshot(), quit: func() { cancel(errQuit) }}, tea.WithOutput(out), tea.WithoutSignalHandler())
	shown := make(chan error, 1)
	go func() {
		_, err := program.Run()
		shown <- err
	}()
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				program.Send(b.snapshot())
				program.Quit()
				return
			case <-tick.C:
				program.Send(b.snapshot())
			}
		}
	}()
	err := play(ctx)
	close(stop)
	if showErr := <-shown; err == nil && showErr != nil {
		err = fmt.Errorf("screen: %w", showErr)
	}
	if cause := context.Cause(ctx); errors.Is(cause, errQuit) {
		return cause
	}
	return err
}

// picture is bubbletea's model: the last snapshot, drawn.
type picture struct {
	now   snapshot
	width int
	quit  func()
}

func (p *picture) Init() tea.Cmd { return nil }

func (p *picture) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch m := msg.(type) {
	case snapshot:
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
	good   = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	bad    = lipgloss.NewStyle().Foreground(lipgloss.Color("1")).Bold(true)
	warm   = lipgloss.NewStyle().Foreground(lipgloss.Color("3")).Bold(true)
)

func (p *picture) View() tea.View {
	var s strings.Builder
	n := p.now
	title := strong.Render("Migration Sensor") + faint.Render("  the lab, on this machine's kernel; q stops")
	fmt.Fprintf(&s, "\n  %s\n  %s %s\n\n", title, phaseStyle(n.Phase).Render(n.Title), faint.Render(fmt.Sprintf("%.0f s", n.At.Sub(n.Since).Seconds())))
	fmt.Fprintf(&s, "  %s\n", faint.Render(fmt.Sprintf("%-5s %-7s %-10s %6s  %9s  %-*s %6s %7s  %s", "proxy", "kind", "state", "since", "packets/s", history, "", "agents", "streams", "serves")))
	for _, x := range n.Proxies {
		s.WriteString(proxyLine(x, n))
	}
	fmt.Fprintf(&s, "\n  %s\n", faint.Render(fmt.Sprintf("%-14s %-9s %6s %6s %10s %10s  %s", "client", "served by", "ok", "failed", "connect", "760 KB", "last fetches")))
	for _, c := range n.Clients {
		s.WriteString(clientText(c))
	}
	s.WriteString("\n")
	for _, e := range n.Events[max(0, len(n.Events)-10):] {
		fmt.Fprintf(&s, "  %s %s\n", faint.Render(fmt.Sprintf("%6.1f s", e.At.Sub(n.Began).Seconds())), e.Text)
	}
	text := s.String()
	if p.width > 0 {
		text = lipgloss.NewStyle().MaxWidth(p.width).Render(text)
	}
	return tea.NewView(text)
}

func phaseStyle(phase string) lipgloss.Style {
	switch phase {
	case phaseFlood:
		return bad
	case phaseReturn:
		return warm
	}
	return good
}

func stateStyle(state string) lipgloss.Style {
	switch state {
	case "active":
		return good
	case "defending":
		return bad
	case "suspended":
		return warm
	}
	return faint
}

func proxyLine(x proxyView, n snapshot) string {
	if !x.Up {
		return fmt.Sprintf("  %-5s %-7s %s\n", x.Name, x.Kind, faint.Render("not up yet"))
	}
	var serves strings.Builder
	for _, c := range n.Clients {
		if c.ServedBy == x.Name && c.OK > 0 {
			serves.WriteString(c.Name + "  ")
		}
	}
	return fmt.Sprintf("  %-5s %-7s %s %5.0fs  %9.0f  %s %6d %7d  %s\n", x.Name, x.Kind,
		stateStyle(x.State).Render(fmt.Sprintf("%-10s", x.State)), n.At.Sub(x.Since).Seconds(), x.Rates["all"],
		faint.Render(fmt.Sprintf("%*s", history, spark(x.History))), x.Agents, x.Streams+x.Plain, serves.String())
}

func clientText(c clientLine) string {
	failed := fmt.Sprintf("%6d", c.Failed)
	if c.Failed > 0 {
		failed = bad.Render(failed)
	}
	connect, total := "", ""
	if c.OK > 0 {
		connect, total = fmt.Sprintf("%.1f ms", c.Connect.Seconds()*1000), fmt.Sprintf("%.0f ms", c.Total.Seconds()*1000)
	}
	var last strings.Builder
	for _, ok := range c.Last {
		if ok {
			last.WriteString(good.Render("●"))
		} else {
			last.WriteString(bad.Render("✗"))
		}
	}
	return fmt.Sprintf("  %-14s %-9s %6d %s %10s %10s  %s\n", c.Name, c.ServedBy, c.OK, failed, connect, total, last.String())
}

// spark draws rates as bars, the highest of them full.
func spark(rates []float64) string {
	const bars = "▁▂▃▄▅▆▇█"
	top := 1.0
	for _, r := range rates {
		top = max(top, r)
	}
	var s strings.Builder
	for _, r := range rates {
		i := int(7 * r / top)
		s.WriteRune([]rune(bars)[min(7, max(0, i))])
	}
	return s.String()
}
