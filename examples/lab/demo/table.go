package demo

import (
	"fmt"
	"io"
	"strings"

	"migrationsensor/examples/lab/figures"
)

// table prints a run for people: a line for each client and phase, then what had to hold.
func table(w io.Writer, file *figures.File, clients []*clientView) error {
	var s strings.Builder
	fmt.Fprintf(&s, "%-14s %-7s %7s %10s %10s %11s %9s %11s %9s\n",
		"client", "when", "fetches", "connected", "whole", "connect p50", "p95", "760 KB p50", "p95")
	for _, c := range clients {
		for _, when := range measured {
			of := func(id string) figures.Figure { return find(file, id, c.System, when) }
			n := of("success.connect").N
			if n == 0 {
				continue
			}
			connect, download := of("connect"), of("download_760k")
			line := fmt.Sprintf("%-14s %-7s %7d %10s %10s %11s %9s %11s %9s", c.Name, when, n,
				of("success.connect").Text(), of("success.download").Text(),
				connect.Text(), connect.P95Text(), download.Text(), download.P95Text())
			s.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
	s.WriteString("\n")
	for _, f := range file.Figures {
		if !perClient(f.ID) {
			s.WriteString(f.Line() + "\n")
		}
	}
	_, err := io.WriteString(w, s.String())
	return err
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
