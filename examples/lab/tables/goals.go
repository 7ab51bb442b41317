package tables

import (
	"strings"

	"migrationsensor/examples/lab/figures"
)

// What is wanted of ours. Ratios are of medians, to the plain proxy beside it in the same loop.
const (
	connectRatio  = 1.03 // links are warm: one round trip, as a plain connect()
	eachRatio     = 2.1  // two round trips: the probe, and OPEN on a warm link beside it
	downloadRatio = 1.01
	detectWithin  = 1000 // ms, the paper's second
)

// compared sets a time's baseline: in peace the plain proxy, for an unprotected destination a client
// without agent.
func compared(f figures.Figure, all []figures.Figure) figures.Figure {
	base := map[string]string{peace: "plain", unprotected: "direct"}[f.When]
	if f.Unit != "ms" || base == "" || f.System == base || f.System == "direct" {
		return f
	}
	want := map[string]string{"dest": f.Labels["dest"], "app": f.Labels["app"]}
	return f.Against(find(&figures.File{Figures: all}, f.ID, base, f.When, want))
}

// withGoal sets what a figure of ours must reach. The others have no goal.
func withGoal(f figures.Figure) figures.Figure {
	if f.Skipped != "" && f.Skipped != incomplete || f.System != "ms" && f.System != "ms-each" {
		return f
	}
	switch {
	case strings.HasPrefix(f.ID, "success."):
		return f.AtLeast(1)
	case f.When != peace || f.Labels["memory"] != "":
		return f
	case f.ID == "connect" && f.Labels["dest"] == "p1" && f.System == "ms":
		return f.RatioAtMost(connectRatio)
	case f.ID == "connect" && f.Labels["dest"] == "p1":
		return f.RatioAtMost(eachRatio)
	case f.ID == "download_760k" && f.System == "ms":
		return f.RatioAtMost(downloadRatio)
	}
	return f
}
