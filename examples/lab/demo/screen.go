package demo

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/live"
)

// screen shows the run live on a terminal and leaves the last picture there.
func screen(ctx context.Context, out *os.File, b *board, play func(context.Context) error) error {
	return live.Show(ctx, out, b.snapshot, draw, play)
}

// shownEvents is how much of the history is drawn, the newest first.
const shownEvents = 16

var (
	strong = lipgloss.NewStyle().Bold(true)
	faint  = lipgloss.NewStyle().Faint(true)
	good   = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	bad    = lipgloss.NewStyle().Foreground(lipgloss.Color("1")).Bold(true)
	warm   = lipgloss.NewStyle().Foreground(lipgloss.Color("3")).Bold(true)
)

// draw is one picture of the run, for 80 columns and 24 lines; a taller terminal shows more of what happened.
func draw(n snapshot) string {
	var s strings.Builder
	title := strong.Render("Migration Sensor") + faint.Render("  the lab, "+n.Where+"; q stops")
	fmt.Fprintf(&s, "  %s\n  %s %s\n\n", title, phaseStyle(n.Phase).Render(n.Title), faint.Render(fmt.Sprintf("%.0f s", n.At.Sub(n.Since).Seconds())))
	fmt.Fprintf(&s, "  %s\n", faint.Render(fmt.Sprintf("%-5s %-6s %-9s %6s %9s  %-22s", "proxy", "kind", "state", "since", "packets/s", "serves")))
	for _, x := range n.Proxies {
		s.WriteString(proxyLine(x, n))
	}
	fmt.Fprintf(&s, "\n  %s\n", faint.Render(fmt.Sprintf("%-14s %-9s %6s %6s %9s %9s  %s", "client", "served by", "ok", "failed", "connect", "760 KB", "last fetches")))
	for _, c := range n.Clients {
		s.WriteString(clientText(c))
	}
	if len(n.Lasting) > 0 {
		s.WriteString(lastingText(n))
	}
	s.WriteString("\n")
	for _, e := range slices.Backward(n.Events[max(0, len(n.Events)-shownEvents):]) {
		fmt.Fprintf(&s, "  %s %s\n", faint.Render(fmt.Sprintf("%6.1f s", e.At.Sub(n.Began).Seconds())), e.Text)
	}
	return s.String()
}

func phaseStyle(phase string) lipgloss.Style {
	switch phase {
	case phaseFlood, phaseKilled, phaseOrphan:
		return bad
	case phaseReturn, phaseDrained, phaseHome:
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
	case "suspended", "draining":
		return warm
	}
	return faint
}

func proxyLine(x proxyView, n snapshot) string {
	name := fmt.Sprintf("  %-5s %-6s ", x.Name, x.Kind)
	if !x.Up {
		return name + faint.Render("does not answer") + "\n"
	}
	name += stateStyle(x.State).Render(fmt.Sprintf("%-9s", x.State)) + fmt.Sprintf(" %5.0fs ", n.At.Sub(x.Since).Seconds())
	if x.Kind == fleet.Anchor { // no address of it is on the internet
		return name + faint.Render(fmt.Sprintf("%9s  holds the far end of %d streams", "", x.Streams)) + "\n"
	}
	var serves []string
	for _, c := range n.Clients {
		if c.ServedBy == x.Name && c.OK > 0 {
			_, short, ok := strings.Cut(strings.TrimSuffix(c.Name, ")"), "(")
			if !ok {
				short = c.Name
			}
			serves = append(serves, short)
		}
	}
	return name + fmt.Sprintf("%9.0f  %-22s %s\n", x.Rates["all"], strings.Join(serves, " "), faint.Render(fmt.Sprintf("%*s", history, spark(x.History))))
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
	return fmt.Sprintf("  %-14s %-9s %6d %s %9s %9s  %s\n", c.Name, c.ServedBy, c.OK, failed, connect, total, last.String())
}

// visible is a stall that one would see on a screen.
const visible = 100 * time.Millisecond

// lastingText are the sessions: by way of whom they went in each phase, and the longest wait that they felt there.
func lastingText(n snapshot) string {
	var s strings.Builder
	head, way := fmt.Sprintf("%-10s %9s", "stall, ms", "arrivals"), fmt.Sprintf("%-10s %9s", "", "by way of")
	for _, kind := range n.Kinds {
		head += fmt.Sprintf(" %8s", kind)
		way += fmt.Sprintf(" %8s", n.Way[kind])
	}
	fmt.Fprintf(&s, "\n  %s\n  %s\n", faint.Render(head), way)
	for _, l := range n.Lasting {
		fmt.Fprintf(&s, "  %-10s %9d", l.Name, l.Arrived)
		for _, kind := range n.Kinds {
			text := ""
			if d, ok := l.Stalls[kind]; ok {
				text = fmt.Sprintf("%.0f", d.Seconds()*1000)
			}
			fmt.Fprintf(&s, " %8s", text)
		}
		switch {
		case n.Phase == phaseEnd:
			s.WriteString("\n")
		case l.Stands > visible:
			s.WriteString("  " + bad.Render(fmt.Sprintf("stands %.1f s", l.Stands.Seconds())) + "\n")
		default:
			s.WriteString("  " + good.Render("goes on") + "\n")
		}
	}
	return s.String()
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
