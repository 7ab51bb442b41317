package demo

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/fleet"
)

// ErrFailed says that the scenario was played to its end and a goal was missed.
var ErrFailed = errors.New("the demo did not pass")

// expected reports whether a client must have been measured in a phase: no samples are no success.
func expected(system, when string) bool {
	switch system {
	case "ms", "ms-each":
		return when != phaseReturn // may be shorter than a fetch
	case "ms-fresh":
		return when == phaseFlood || when == phaseAfter
	}
	return false
}

// clientFigures are a client's in one phase: failures are in the shares, not in the times.
func clientFigures(system, when string, samples []fleet.Sample) []figures.Figure {
	var connects, downloads []time.Duration
	for _, s := range samples {
		if s.Connected {
			connects = append(connects, s.Connect)
		}
		if s.OK() {
			downloads = append(downloads, s.Total)
		}
	}
	connected := figures.Share("success.connect", system, when, len(connects), len(samples))
	downloaded := figures.Share("success.download", system, when, len(downloads), len(samples))
	if system != "plain" {
		connected, downloaded = connected.AtLeast(1), downloaded.AtLeast(1)
	}
	return []figures.Figure{
		figures.Times("connect", system, when, connects), figures.Times("download_760k", system, when, downloads),
		connected, downloaded,
	}
}

func flag(id string, yes bool) figures.Figure {
	n := 0
	if yes {
		n = 1
	}
	return figures.Count(id, "ms", phaseFlood, n, 1).AtLeast(1)
}

// summary is the last word.
func summary(file *figures.File, err error) string {
	if err != nil {
		return fmt.Sprintf("FAIL: %v", err)
	}
	if file.Verdict == "pass" {
		return "PASS"
	}
	var s strings.Builder
	s.WriteString("FAIL:")
	for _, f := range file.Figures {
		if f.Meets != nil && !*f.Meets {
			s.WriteString(fmt.Sprintf(" %s (%s, %s);", f.ID, f.System, f.When))
		}
	}
	return s.String()
}
