package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"migrationsensor/proxyd"
)

type statusCmd struct {
	JSON bool `help:"As JSON."`
}

func (statusCmd) Example() string {
	return "  proxyd status\n  proxyd status --json | jq .state\n"
}

// Run shows the status of the proxyd that runs here.
func (c *statusCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	st, err := proxyd.ControlStatus(e.ctx, cfg.Socket)
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(st)
	}
	return printStatus(e.stdout, st, time.Now())
}

type downCmd struct{}

func (downCmd) Help() string {
	return "The agents are sent to another proxy first, for at most stop_wait (5s); a second `proxyd down`, or a signal, stops at once."
}

// Run stops the proxyd that runs here, and returns when it has ended.
func (c *downCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(e.ctx, 30*time.Second+cfg.StopWait.Duration)
	defer cancel()
	return proxyd.ControlDown(ctx, cfg.Socket)
}

// printStatus is the human form: the answers to "what, since when, why" first.
func printStatus(w io.Writer, st proxyd.Status, now time.Time) error {
	fmt.Fprintf(w, "%s (%s, %s) is %s", st.Node, st.Kind, st.ID, st.State)
	if !st.Since.IsZero() {
		fmt.Fprintf(w, " since %s (%s)", st.Since.Local().Format("15:04:05"), now.Sub(st.Since).Round(time.Second))
	}
	if st.Why != "" {
		fmt.Fprintf(w, ": %s", st.Why)
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if st.Kind == "anchor" {
		fmt.Fprintf(tw, "holds\t%d sessions, %d streams, %d links\n", st.Sessions, st.Streams, st.Links)
	}
	if len(st.Via) > 0 {
		fmt.Fprintf(tw, "links\t%s\n", pairs(st.Via, "by way of %s %d"))
	}
	if st.Kind == "entry" || st.Kind == "hidden" {
		frontends := strings.Join(st.Frontends, ", ")
		if frontends == "" {
			frontends = "nobody"
		}
		fmt.Fprintf(tw, "frontend\t%s\n", frontends)
		fmt.Fprintf(tw, "clients\t%d agents, %d streams, %d links (%d passed on), %d plain connections, %d addresses admitted\n", st.Agents, st.Streams, st.Links, st.Relayed, st.Plain, st.Admitted)
	}
	if l := st.Leaving; l != nil {
		fmt.Fprintf(tw, "left\t%d agents (%d have not answered), %d links, %d plain connections\n", l.Agents, l.Waiting, l.Links, l.Plain)
	}
	printRates(tw, st)
	printPath(tw, st)
	if s := st.Sampling; s != nil {
		fmt.Fprintf(tw, "answers\tby %s: %.1f %% of fresh SYNs, %.1f %% of retransmitted ones, at most %.0f/s; %.1f %% looked at; keyed ones always\n",
			s.Mode, 100*s.Fresh, 100*s.Again, s.Answers, 100*s.Intake)
	}
	if len(st.Disclosed) > 0 {
		fmt.Fprintf(tw, "told\t%s\n", pairs(st.Disclosed, "%s to %d agents"))
	}
	for i, s := range st.Strangers {
		label := ""
		if i == 0 {
			label = "strangers"
		}
		last := ""
		if !s.Last.IsZero() {
			last = fmt.Sprintf(", last %s ago", now.Sub(s.Last).Round(time.Second))
		}
		fmt.Fprintf(tw, "%s\t%s %d (%s)%s\n", label, s.Prefix, s.Count, pairs(s.Why, "%s %d"), last)
	}
	printPeers(tw, st.Peers)
	if len(st.Counts) > 0 {
		fmt.Fprintf(tw, "counts\t%s\n", pairs(st.Counts, "%s %d"))
	}
	fmt.Fprintf(tw, "version\t%s\n", st.Version)
	return tw.Flush()
}

// printRates puts each rate beside its threshold and marks the one that is exceeded.
func printRates(w io.Writer, st proxyd.Status) {
	for i, kind := range []string{"all", "syn", "icmp", "udp"} {
		rate, measured := st.Rates[kind]
		if !measured {
			continue
		}
		label := ""
		if i == 0 {
			label = "packets/s"
		}
		limit, mark := "no threshold", ""
		if th := st.Thresholds[kind]; th > 0 {
			limit = fmt.Sprintf("threshold %.0f", th)
			if rate > th {
				mark = "  EXCEEDED"
			}
		}
		fmt.Fprintf(w, "%s\t%-4s %10.0f  %s%s\n", label, kind, rate, limit, mark)
	}
}

// printPath says how the SYN Checker sees packets, and why not in a better way.
func printPath(w io.Writer, st proxyd.Status) {
	if st.Path == "" {
		return
	}
	fmt.Fprintf(w, "data path\t%s\n", st.Path)
	for _, why := range st.PathWhy {
		fmt.Fprintf(w, "\tnot %s\n", why)
	}
}

func printPeers(w io.Writer, peers []proxyd.PeerStatus) {
	for i, p := range peers {
		label := ""
		if i == 0 {
			label = "peers"
		}
		state := "down"
		if p.Up {
			state = "up"
			if p.State != "" {
				state += ", " + p.State
			}
			if p.UnderAttack {
				state += ", under attack"
			}
		}
		fmt.Fprintf(w, "%s\t%s %s\n", label, p.Name, state)
	}
}

// pairs lists a map by its sorted keys.
func pairs[V any](m map[string]V, format string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf(format, k, m[k]))
	}
	return strings.Join(out, ", ")
}
