package demo

import (
	"fmt"
	"io"
	"strings"

	"migrationsensor/examples/lab/figures"
)

// table prints a run for people: a line for each client and phase, what the sessions felt, then what had to hold.
func table(w io.Writer, file *figures.File, b *board) error {
	var s strings.Builder
	wide := 7 // of the phases' names
	for _, kind := range b.kinds {
		wide = max(wide, len(kind))
	}
	fmt.Fprintf(&s, "%-14s %-*s %7s %10s %10s %11s %9s %11s %9s\n",
		"client", wide, "when", "fetches", "connected", "whole", "connect p50", "p95", "760 KB p50", "p95")
	for _, c := range b.clients {
		for _, when := range measured {
			of := func(id string) figures.Figure { return find(file, id, c.System, when) }
			n := of("success.connect").N
			if n == 0 {
				continue
			}
			connect, download := of("connect"), of("download_760k")
			line := fmt.Sprintf("%-14s %-*s %7d %10s %10s %11s %9s %11s %9s", c.Name, wide, when, n,
				of("success.connect").Text(), of("success.download").Text(),
				connect.Text(), connect.P95Text(), download.Text(), download.P95Text())
			s.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
	stalls(&s, file, b.snapshot())
	s.WriteString("\n")
	for _, f := range file.Figures {
		if !perClient(f.ID) && f.ID != "stall" {
			s.WriteString(f.Line() + "\n")
		}
	}
	_, err := io.WriteString(w, s.String())
	return err
}

// stalls prints by way of whom the sessions went in each phase, and the longest wait that each of them felt there.
func stalls(s *strings.Builder, file *figures.File, n snapshot) {
	head, way := fmt.Sprintf("\n%-14s", "longest stall"), fmt.Sprintf("%-14s", "by way of")
	for _, kind := range n.Kinds {
		head += fmt.Sprintf(" %12s", kind)
		way += fmt.Sprintf(" %12s", n.Way[kind])
	}
	fmt.Fprintf(s, "%s\n%s\n", head, way)
	for _, app := range []string{"ssh", "download"} {
		line, skipped := fmt.Sprintf("%-14s", app), ""
		for _, f := range file.Figures {
			if f.ID != "stall" || f.Labels["app"] != app {
				continue
			}
			text := f.Text()
			if f.Meets != nil && !*f.Meets {
				text += " ✗"
			}
			line += fmt.Sprintf(" %12s", text)
			skipped = f.Skipped
		}
		if skipped != "" {
			line = fmt.Sprintf("%-14s not run: %s", app, skipped)
		}
		s.WriteString(line + "\n")
	}
}

func perClient(id string) bool {
	return id == "connect" || id == "download_760k" || strings.HasPrefix(id, "success.")
}

func find(file *figures.File, id, system, when string) figures.Figure {
	for _, f := range file.Figures {
		if f.ID == id && f.System == system && f.When == when {
			return f
		}
	}
	return figures.Figure{}
}
