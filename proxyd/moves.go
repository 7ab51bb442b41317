package proxyd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proxyd/fleet"
	"migrationsensor/proxyd/informer"
)

// Planned moves: what a migration is without an attack (the paper's section 4.2.3, "at any time").

// MoveRequest asks for agents to be sent to another proxy.
type MoveRequest struct {
	Agents  []string `json:"agents,omitempty"` // id, the beginning of one, or address; none with All
	All     bool     `json:"all,omitempty"`
	To      string   `json:"to,omitempty"`      // a neighbour; empty: each to its own
	Entries bool     `json:"entries,omitempty"` // to entries only
	Drain   bool     `json:"drain,omitempty"`   // all of them, and whoever comes later
	Wait    Duration `json:"wait"`              // how long to watch them go
}

// MoveProgress is how far a planned move has come.
type MoveProgress struct {
	Agents       int    `json:"agents"` // that it is for
	Told         int    `json:"told"`
	Acknowledged int    `json:"acknowledged"`
	Gone         int    `json:"gone"`    // no data link of theirs is here any more, and they take no orders here
	Nowhere      int    `json:"nowhere"` // no neighbour may take them
	Links        int    `json:"links"`   // data links through this proxy, those of agents that take no orders here too
	Plain        int    `json:"plain"`   // connections without an agent, which cannot move
	Held         int    `json:"held"`    // streams whose anchor is this node: they go on, and end with it
	Over         bool   `json:"over"`    // the last one: all are gone (and of a drain all links), or the time is up
	Error        string `json:"error,omitempty"`
}

const (
	moveLook  = 100 * time.Millisecond
	moveAgain = time.Second
	moveWait  = 10 * time.Minute // the longest that anybody may watch
)

// errNoEdge is for nodes that no agent is connected to.
var errNoEdge = errors.New("no agent is connected to this node, which is no edge; run this on the edge that they use")

// Move sends agents elsewhere and reports how far that is, until they are gone, req.Wait is over or ctx
// is done. An error before the first report means that nobody was told anything.
func (p *Proxy) Move(ctx context.Context, req MoveRequest, report func(MoveProgress)) error {
	if p.edge == nil {
		return errNoEdge
	}
	return p.edge.move(ctx, req, report)
}

func (e *edge) move(ctx context.Context, req MoveRequest, report func(MoveProgress)) error {
	if err := e.sensible(req); err != nil {
		return err
	}
	o := informer.Order{Entries: req.Entries}
	var err error
	if req.To != "" {
		if o.To, err = e.neighbour(req.To); err != nil {
			return err
		}
	} else if err := e.somewhere(req.Entries); err != nil {
		return err
	}
	who, err := e.chosen(req)
	if err != nil {
		return err
	}
	if e.stopping.Load() {
		return errors.New("this proxyd is stopping and sends its agents on already")
	}
	if req.Drain {
		if err := e.drain(ctx, o.To, req.To); err != nil {
			return err
		}
	}
	return e.watch(ctx, e.informer.Move(ctx, o, func(a proto.AgentID) bool { return who == nil || who[a] }), req.Wait.Duration, req.Drain, report)
}

// sensible refuses what contradicts itself, before anybody is told anything.
func (e *edge) sensible(req MoveRequest) error {
	switch {
	case req.Wait.Duration < 0:
		return fmt.Errorf("wait is %s: it can't be less than nothing", req.Wait.Duration)
	case req.Drain && len(req.Agents) > 0:
		return errors.New("a drain is for every agent: leave out the agents, or move only those without it (`proxyd migrate`)")
	case req.Entries && !e.hidden:
		return fmt.Errorf("%s is an entry itself, so its agents are at home; to send them elsewhere use `proxyd migrate --all` or `proxyd drain`", e.self.Name)
	}
	return nil
}

// watch reports a move until it is over; a drain is when no data link is left either.
func (e *edge) watch(ctx context.Context, mv *informer.Moving, wait time.Duration, drain bool, report func(MoveProgress)) error {
	ctx, cancel := context.WithTimeout(ctx, min(max(wait, 0), moveWait))
	defer cancel()
	look, again := time.NewTicker(moveLook), time.NewTicker(moveAgain)
	defer look.Stop()
	defer again.Stop()
	var said MoveProgress
	for first := true; ; first = false {
		p := e.progress(mv)
		gone := p.Gone == p.Agents && (!drain || p.Links == 0)
		p.Over = gone || ctx.Err() != nil
		if first || p != said {
			report(p)
			said = p
		}
		if p.Over {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-look.C:
		case <-again.C:
			mv.Again(ctx)
		}
	}
}

func (e *edge) progress(mv *informer.Moving) MoveProgress {
	here, links := map[proto.AgentID]bool{}, 0
	for _, l := range e.acceptor.Links() {
		if l.Kind == proto.KindData {
			here[l.Agent] = true
			links++
		}
	}
	p := mv.Progress(func(a proto.AgentID) bool { return here[a] })
	return MoveProgress{
		Agents: p.Agents, Told: p.Told, Acknowledged: p.Acknowledged, Gone: p.Gone, Nowhere: p.Nowhere,
		Links: links, Plain: e.packets.Stats().Open, Held: e.anchor.Streams(),
	}
}

// drain takes the edge out of service; name is where its clients go, for the status.
func (e *edge) drain(ctx context.Context, to proto.NodeID, name string) error {
	why := "an operator drains it; its clients go on to " + cmp.Or(name, "its neighbours")
	e.mu.Lock()
	e.drainTo = to
	e.mu.Unlock()
	err := e.actAll(ctx, e.transition(func(m *machine, now time.Time) []action { return m.drain(now, why) }))
	e.announce()
	e.poke()
	return err
}

// Undrain puts the proxy back into service. Clients that were sent elsewhere stay there.
func (p *Proxy) Undrain(ctx context.Context) error {
	if p.edge == nil {
		return errNoEdge
	}
	e := p.edge
	drained := false
	acts := e.transition(func(m *machine, now time.Time) []action {
		drained = m.drained != ""
		return m.undrain(now)
	})
	if !drained {
		return fmt.Errorf("%s is not drained: it is %s", p.state.Node().Name, e.state())
	}
	e.announce()
	e.poke()
	return e.actAll(ctx, acts)
}

// neighbour finds the node that an operator named, if clients can be sent there now.
func (e *edge) neighbour(name string) (proto.NodeID, error) {
	doc := e.p.state.Doc()
	self, _ := doc.Node(e.self.ID)
	i := slices.IndexFunc(doc.Nodes, func(n proto.FleetNode) bool { return n.Name == name || n.ID.String() == name })
	if i < 0 {
		return proto.NodeID{}, fmt.Errorf("there is no node %q in this fleet; the neighbours of %s are: %s", name, self.Name, e.neighbourNames())
	}
	n := doc.Nodes[i]
	switch {
	case n.ID == e.self.ID:
		return proto.NodeID{}, fmt.Errorf("%s is this node itself; its neighbours are: %s", n.Name, e.neighbourNames())
	case !slices.Contains(self.Neighbours, n.ID):
		return proto.NodeID{}, fmt.Errorf("%s is not a neighbour of %s, which has no keys to give its clients; its neighbours are: %s; or add %q to `neighbours` of %q on the signing node",
			n.Name, self.Name, e.neighbourNames(), n.Name, self.Name)
	}
	if why := e.informer.Refusal(n.ID); why != "" {
		return proto.NodeID{}, fmt.Errorf("%s %s", n.Name, why)
	}
	return n.ID, nil
}

func (e *edge) neighbourNames() string {
	var out []string
	for _, n := range e.neighbours() {
		out = append(out, n.Name)
	}
	return cmp.Or(strings.Join(out, ", "), "none")
}

// somewhere says why there is no neighbour, or no entry among them, that takes anybody.
func (e *edge) somewhere(entries bool) error {
	var whys []string
	for _, n := range e.neighbours() {
		if entries && !n.Entry {
			continue
		}
		why := e.informer.Refusal(n.Node)
		if why == "" {
			return nil
		}
		whys = append(whys, n.Name+" "+why)
	}
	name := e.p.state.Node().Name
	switch {
	case len(whys) > 0:
		return fmt.Errorf("there is nowhere to send anybody: %s", strings.Join(whys, "; "))
	case entries:
		return fmt.Errorf("%s has no entry among its neighbours (%s): add one to `neighbours` of %q on the signing node", name, e.neighbourNames(), name)
	}
	return fmt.Errorf("there is nowhere to send anybody: %s has no neighbours; add some to `neighbours` of %q on the signing node", name, name)
}

// chosen finds the agents that a request names; nil means all.
func (e *edge) chosen(req MoveRequest) (map[proto.AgentID]bool, error) {
	switch {
	case req.All && len(req.Agents) > 0:
		return nil, errors.New("name agents, or say --all, not both")
	case req.All || req.Drain:
		return nil, nil
	case len(req.Agents) == 0:
		return nil, errors.New("name the agents to move (`proxyd agents` lists them), or say --all")
	}
	members := e.informer.List()
	who := map[proto.AgentID]bool{}
	for _, name := range req.Agents {
		a, err := find(members, name)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(members, func(m informer.MemberInfo) bool { return m.Agent == a && !m.StandsBy }) {
			return nil, fmt.Errorf("agent %s only stands by here: move it on the proxy that it uses", a)
		}
		who[a] = true
	}
	return who, nil
}

// find is the one agent that a name means: its id, the beginning of that, or its address with or
// without port.
func find(members []informer.MemberInfo, name string) (proto.AgentID, error) {
	addr, isAddr := netip.ParseAddr(name)
	port, isPort := netip.ParseAddrPort(name)
	var found []proto.AgentID
	for _, m := range members {
		is := strings.HasPrefix(m.Agent.String(), strings.ToLower(name))
		is = is || isAddr == nil && m.Addr.Addr() == addr.Unmap() || isPort == nil && m.Addr == port
		if is && name != "" && !slices.Contains(found, m.Agent) {
			found = append(found, m.Agent)
		}
	}
	switch len(found) {
	case 0:
		return proto.AgentID{}, fmt.Errorf("no agent here has an id that begins with %q, or this address; `proxyd agents` lists them", name)
	case 1:
		return found[0], nil
	}
	ids := make([]string, 0, len(found))
	for _, a := range found[:min(len(found), 4)] {
		ids = append(ids, a.String())
	}
	return proto.AgentID{}, fmt.Errorf("%q means %d agents (%s, …): write more of the id", name, len(found), strings.Join(ids, ", "))
}

// AgentStatus is a connected agent, as `proxyd agents` shows it.
type AgentStatus struct {
	ID           string    `json:"id"`
	Addr         string    `json:"addr"` // as seen
	Since        time.Time `json:"since"`
	Links        int       `json:"links"`   // data links through this proxy
	Streams      int       `json:"streams"` // of sessions that are held here
	Told         string    `json:"told,omitempty"`
	Acknowledged bool      `json:"acknowledged,omitempty"`
	StandsBy     bool      `json:"stands_by,omitempty"` // it uses another proxy, and keeps a control link here
}

// Agents lists the agents that are connected to this node, by id.
func (p *Proxy) Agents() []AgentStatus {
	out := []AgentStatus{}
	if p.edge == nil {
		return out
	}
	e := p.edge
	links, streams := map[proto.AgentID]int{}, map[proto.AgentID]int{}
	for _, l := range e.acceptor.Links() {
		if l.Kind == proto.KindData {
			links[l.Agent]++
		}
	}
	for _, s := range e.anchor.Sessions() {
		streams[s.Agent] += s.Streams
	}
	doc := p.state.Doc()
	for _, m := range e.informer.List() {
		a := AgentStatus{
			ID: m.Agent.String(), Addr: m.Addr.String(), Since: m.Since, Links: links[m.Agent], Streams: streams[m.Agent],
			Acknowledged: m.Acknowledged, StandsBy: m.StandsBy,
		}
		if n, ok := doc.Node(m.Told); ok {
			a.Told = n.Name
		}
		out = append(out, a)
	}
	return out
}

// otherEntry reports whether agents know another entry than this node.
func (e *edge) otherEntry() bool {
	return slices.ContainsFunc(e.p.state.Doc().Nodes, func(n proto.FleetNode) bool { return n.Kind == fleet.KindEntry && n.ID != e.self.ID })
}
