package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"migrationsensor/proxyd"
)

type drainCmd struct {
	To   string        `help:"Send the clients to this neighbour; else each to its own." placeholder:"NODE"`
	Undo bool          `help:"Put this proxy back into service."`
	Wait time.Duration `help:"Watch them go for at most this long." default:"30s"`
}

func (drainCmd) Example() string {
	return "  proxyd drain              before maintenance: its agents move, newcomers are sent on\n" +
		"  proxyd drain --to p2      to one neighbour\n" +
		"  proxyd drain --undo       back into service\n"
}

func (drainCmd) Help() string {
	return "Agents that are connected move to another proxy and keep their connections; agents that come are sent on. " +
		"Connections of clients without an agent are left alone. It stays drained until --undo or a restart."
}

// Run takes this proxy out of service, or puts it back.
func (c *drainCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	if c.Undo {
		if c.To != "" {
			return errors.New("--undo puts the proxy back into service: leave out --to")
		}
		if err := proxyd.ControlUndrain(e.ctx, cfg.Socket); err != nil {
			return err
		}
		fmt.Fprintln(e.stdout, "back in service; agents that moved stay where they are (`proxyd home` there sends them to an entry)")
		return nil
	}
	return e.move(cfg, proxyd.MoveRequest{To: c.To, Drain: true, Wait: proxyd.Duration{Duration: c.Wait}})
}

type migrateCmd struct {
	Agents []string      `arg:"" optional:"" name:"agent" help:"Id, the beginning of one, or address, as proxyd agents lists them."`
	All    bool          `help:"Every agent that is connected now."`
	To     string        `help:"Send them to this neighbour; else each to its own." placeholder:"NODE"`
	Wait   time.Duration `help:"Watch them go for at most this long." default:"30s"`
}

func (migrateCmd) Example() string {
	return "  proxyd migrate 3f2a --to p2\n  proxyd migrate --all\n"
}

// Run moves agents that are connected now.
func (c *migrateCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	return e.move(cfg, proxyd.MoveRequest{Agents: c.Agents, All: c.All, To: c.To, Wait: proxyd.Duration{Duration: c.Wait}})
}

type homeCmd struct {
	Wait time.Duration `help:"Watch them go for at most this long." default:"30s"`
}

func (homeCmd) Example() string {
	return "  proxyd home               on a spare, after an attack: its agents go back to the entries\n"
}

// Run sends the agents to the entries among the neighbours.
func (c *homeCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	return e.move(cfg, proxyd.MoveRequest{All: true, Entries: true, Wait: proxyd.Duration{Duration: c.Wait}})
}

// move asks for a planned move and prints how far it is, until all are gone or the time is up.
func (e *env) move(cfg proxyd.Config, req proxyd.MoveRequest) error {
	if req.Wait.Duration < 0 {
		return fmt.Errorf("--wait %s: it can't be less than nothing", req.Wait.Duration)
	}
	var printed string
	last, err := proxyd.ControlMove(e.ctx, cfg.Socket, req, func(p proxyd.MoveProgress) {
		if line := progressLine(p); line != printed {
			printed = line
			fmt.Fprintln(e.stdout, line)
		}
	})
	if err == nil && req.Drain && last.Held > 0 {
		fmt.Fprintf(e.stdout, "%d streams are held here, their anchor is this node: they go on, and end if it is stopped\n", last.Held)
	}
	switch {
	case err != nil:
		return err
	case last.Nowhere > 0:
		return fmt.Errorf("%d of %d agents stay: no neighbour may take them (see proxyd status: peers, told)", last.Nowhere, last.Agents)
	case last.Gone < last.Agents:
		return fmt.Errorf("%d of %d agents are still here after %s; they go on moving by themselves: look again with proxyd agents", last.Agents-last.Gone, last.Agents, req.Wait.Duration)
	case req.Drain && last.Links > 0:
		return fmt.Errorf("%d data links of agents that are not connected here still go through this proxy after %s: stopping it cuts them; look again with proxyd drain", last.Links, req.Wait.Duration)
	}
	return nil
}

func progressLine(p proxyd.MoveProgress) string {
	if p.Agents == 0 {
		if p.Links > 0 {
			return plainLine(fmt.Sprintf("no agent is connected, %d data links are left", p.Links), p.Plain)
		}
		return plainLine("no agent is connected", p.Plain)
	}
	return plainLine(fmt.Sprintf("%d of %d agents told, %d acknowledged, %d gone", p.Told, p.Agents, p.Acknowledged, p.Gone), p.Plain)
}

func plainLine(s string, plain int) string {
	if plain == 0 {
		return s
	}
	return fmt.Sprintf("%s; %d plain connections stay", s, plain)
}

type agentsCmd struct {
	JSON bool `help:"As JSON."`
}

func (agentsCmd) Example() string {
	return "  proxyd agents\n  proxyd agents --json | jq -r '.[].id'\n"
}

// Run lists the agents that are connected here.
func (c *agentsCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	agents, err := proxyd.ControlAgents(e.ctx, cfg.Socket)
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(agents)
	}
	return printAgents(e.stdout, agents, time.Now())
}

// printAgents writes one agent a line, with as much of its id as names it.
func printAgents(w io.Writer, agents []proxyd.AgentStatus, now time.Time) error {
	if len(agents) == 0 {
		_, err := fmt.Fprintln(w, "no agent is connected")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "agent\taddress\tfor\tlinks\tstreams here\ttold")
	for _, a := range agents {
		told := "-"
		if a.StandsBy {
			told = "stands by"
		}
		if a.Told != "" {
			told = a.Told
			if !a.Acknowledged {
				told += ", no answer yet"
			}
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%s\n", a.ID, a.Addr, now.Sub(a.Since).Round(time.Second), a.Links, a.Streams, told)
	}
	return tw.Flush()
}
