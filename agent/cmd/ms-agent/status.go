package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"migrationsensor/agent"
)

const (
	statusTimeout = 5 * time.Second
	downTimeout   = 30 * time.Second
	shownEvents   = 10
)

// socketFlags say how to find the running agent.
type socketFlags struct {
	Config string `default:"${config}" placeholder:"FILE" help:"Configuration (default ${config})."`
	Socket string `placeholder:"PATH" help:"Control socket, instead of the configuration's."`
}

func (f socketFlags) control() (agent.Control, error) {
	if f.Socket != "" {
		return agent.Control{Socket: f.Socket}, nil
	}
	cfg, err := agent.LoadConfig(f.Config)
	return agent.Control{Socket: cfg.Socket}, err
}

type statusCmd struct {
	socketFlags
	JSON bool `help:"Print everything as JSON."`
}

func (c *statusCmd) Run(ctx context.Context, s *stdio) error {
	control, err := c.control()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st, err := control.Status(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		return enc.Encode(st)
	}
	return printStatus(s.out, st, time.Now())
}

type forgetCmd struct{ socketFlags }

func (c *forgetCmd) Run(ctx context.Context, s *stdio) error {
	control, err := c.control()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := control.Forget(ctx); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "forgotten; new connections begin at the entries, `ms-agent status` shows where they lead")
	return nil
}

type downCmd struct{ socketFlags }

func (c *downCmd) Run(ctx context.Context, s *stdio) error {
	control, err := c.control()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	if err := control.Down(ctx); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "stopped; routes, rules and device are gone")
	return nil
}

func printStatus(w io.Writer, st agent.Status, now time.Time) error {
	ago := func(t time.Time) string { return now.Sub(t).Round(time.Second).String() }
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("state", "%s for %s", st.State, ago(st.Since))
	if st.Why != "" {
		row("why", "%s", st.Why)
	}
	row("agent", "%s  fleet %s  probe %s  version %s", cmp.Or(st.AgentID, "not enrolled"), cmp.Or(st.Fleet, "-"), st.Probe, st.Version)
	if e := st.Edge; e != nil {
		row("edge", "%s  node %s  %s  for %s  rtt %.1f ms", cmp.Or(e.Name, "(hidden)"), e.Node, e.Addr, ago(e.Since), e.RTTms)
	} else {
		row("edge", "none")
	}
	if e := st.Second; e != nil {
		row("second", "%s  node %s  %s  for %s", cmp.Or(e.Name, "(hidden)"), e.Node, e.Addr, ago(e.Since))
	}
	for _, x := range st.Sessions {
		row("session", "%s", sessionLine(x, now))
		if x.Own && x.New {
			row("warning", "sessions end at %s, the edge in use: their streams end when it dies (give the fleet a node of role anchor, or a second edge)", x.Anchor)
		}
	}
	for _, l := range st.Links {
		row("link", "%s  %s  %s  for %s  streams %d", l.Kind, l.Addr, l.Node, ago(l.Since), l.Streams)
	}
	row("protected", "%s", cmp.Or(strings.Join(st.Protected, " "), "nothing"))
	c := st.Counts
	row("streams", "%d open  %d opened  %d direct  %d refused  %d timed out  %d failed", st.Streams, c.Opened, c.Direct, c.Refused, c.TimedOut, c.Failed)
	row("moves", "%d migrations  %d transfers", c.Moves, c.Transfers)
	if c.Forged > 0 {
		row("forged", "%d answers to this agent's dials were no proxy's of its fleet", c.Forged)
	}
	row("tun", "%d packets", c.TUNPackets)
	for _, n := range st.Eaten {
		row("network", "%s loses SYNs that carry data: ordinary ones go first until %s", n.Prefix, n.Until.Local().Format(time.TimeOnly))
	}
	for i, e := range st.Events[max(0, len(st.Events)-shownEvents):] {
		name := ""
		if i == 0 {
			name = "events"
		}
		row(name, "%s  %s: %s", e.Time.Local().Format(time.TimeOnly), e.What, e.Detail)
	}
	return tw.Flush()
}

// sessionLine says in one line where a session is.
func sessionLine(x agent.SessionStatus, now time.Time) string {
	where := "by way of " + x.Edge
	if !x.Waiting.IsZero() {
		where = fmt.Sprintf("no link for %s", now.Sub(x.Waiting).Round(time.Second))
	}
	line := fmt.Sprintf("%s  anchor %s  %s  links %d  streams %d  epoch %d", x.State, x.Anchor, where, x.Links, x.Streams, x.Epoch)
	if x.LastStallMs > 0 {
		line += fmt.Sprintf("  last stall %.0f ms", x.LastStallMs)
	}
	switch {
	case x.Single:
		line += "  (for one connection)"
	case !x.New:
		line += "  (ends with its streams)"
	}
	return line
}
