package proxyd

import (
	"slices"

	"migrationsensor/proto"
	"migrationsensor/proxyd/fleet"
	"migrationsensor/proxyd/informer"
)

// busyAbove is the share of the anchor's room (per mille) beyond which no client is taken over.
const busyAbove = 950

// UserInfo is the paper's migration notification 1 from a neighbour: its clients will come.
func (e *edge) UserInfo(from proto.NodeID, m *proto.UserInfo) proto.Message {
	if why := e.busy(); why != "" {
		return &proto.Busy{Reason: why}
	}
	for _, c := range m.Clients {
		if c.Addr.IsValid() {
			e.door.welcome(c.Addr, min(c.StartAfter+c.Expiry, 2*admitFor))
		}
	}
	e.log.Info("clients announced", "from", from, "round", m.Round, "clients", len(m.Clients))
	return &proto.UserInfoOK{Round: m.Round, Load: e.busyness()}
}

// Ratify is the paper's ratify notification from a neighbour; the answer is the approval.
func (e *edge) Ratify(from proto.NodeID, m *proto.Ratify) proto.Message {
	if why := e.busy(); why != "" {
		return &proto.Busy{Reason: why}
	}
	if m.Addr.IsValid() {
		e.door.welcome(m.Addr, min(m.Expiry, admitFor))
	}
	return &proto.RatifyOK{Attempt: m.Attempt, Load: e.busyness()}
}

// busy says why no client can be taken over; empty: they can.
func (e *edge) busy() string {
	state := e.state()
	if v := e.verdict.Load(); v != nil && v.Attack || state == Defending {
		return "under attack"
	}
	if why := away(string(e.says(state))); why != "" {
		return why
	}
	if e.busyness() > busyAbove {
		return "full"
	}
	return ""
}

// busyness is the share of the anchor's streams in use, per mille of maxStreams.
func (e *edge) busyness() uint16 { return uint16(min(e.anchor.Streams()*1000/maxStreams, 1000)) }

const maxStreams = 65536

// Heartbeat is what a peer says of itself.
func (e *edge) Heartbeat(from proto.NodeID, m *proto.Heartbeat) {
	e.informer.Heard(from, true, m.UnderAttack)
	e.informer.Away(from, away(m.State))
}

// stopping is what a heartbeat says in the state's place before the proxy stops.
const stopping State = "stopping"

// away says why a proxy that tells this state takes no clients over though it is not attacked; empty:
// it does.
func away(state string) string {
	switch s := State(state); s {
	case Draining, Suspended, stopping:
		return state
	case Standby, Active, Defending:
	}
	return ""
}

// says is what this node tells the others of its state.
func (e *edge) says(s State) State {
	if e.stopping.Load() {
		return stopping
	}
	return s
}

// announce tells the peers of a change now, not at the next heartbeat.
func (e *edge) announce() {
	b := e.heartbeat()
	e.p.peers.Broadcast(&b)
}

// Handover is a neighbour's key: clients can be sent there from now on.
func (e *edge) Handover(proto.NodeID, *proto.Handover) {
	e.informer.SetNeighbours(e.neighbours())
	for _, m := range e.informer.Connected() { // those that came before there was a next proxy to name
		if err := e.tellStandby(m.Send, m.Agent); err != nil {
			e.log.Debug("standby not told", "agent", m.Agent, "err", err)
		}
	}
}

// FleetChanged takes new services, nodes and neighbours over.
func (e *edge) FleetChanged(doc *proto.FleetDoc, _ []byte) {
	if self, ok := doc.Node(e.self.ID); !ok || self.Kind != e.self.Kind || self.LinkPort != e.self.LinkPort ||
		self.Backplane != e.self.Backplane || !slices.Equal(self.Relay, e.self.Relay) || !slices.Equal(self.Public, e.self.Public) {
		e.log.Warn("the signing node declares this node differently now: restart proxyd to follow")
	}
	e.p.state.FillKeyring(e.keys)
	e.services.set(doc)
	e.informer.SetNeighbours(e.neighbours())
	e.informer.Tell(&proto.CatalogueMsg{Doc: e.p.state.Catalogue()})
	select { // the reader of a link calls us: the loop waits for the kernel
	case e.changed <- struct{}{}:
	default: // it will look at the newest document anyway
	}
	e.log.Info("fleet changed", "version", doc.Version)
}

// heartbeat is what this node says of itself each second.
func (e *edge) heartbeat() proto.Heartbeat {
	state := e.state()
	v := e.verdict.Load()
	for id, s := range e.p.peers.Up() { // also the moment to notice peers that fell silent
		if !s.Up {
			e.informer.Heard(id, false, false)
		}
	}
	e.p.endCutOff(e.acceptor)
	return proto.Heartbeat{Load: e.busyness(), UnderAttack: v != nil && v.Attack || state == Defending, State: string(e.says(state))}
}

// neighbours are this edge's possible next proxies, with the keys they gave.
func (e *edge) neighbours() (out []informer.Neighbour) {
	doc := e.p.state.Doc()
	self, _ := doc.Node(e.self.ID)
	keys := e.p.peers.Handovers()
	for _, id := range self.Neighbours {
		n, ok := doc.Node(id)
		if !ok || len(n.Public) == 0 {
			continue
		}
		nb := informer.Neighbour{Node: id, Name: n.Name, Port: n.LinkPort, Entry: n.Kind == fleet.KindEntry}
		for _, a := range n.Public {
			if a.Is4() {
				nb.Addr4 = a
			} else {
				nb.Addr6 = a
			}
		}
		if h, ok := keys[id]; ok {
			nb.Gen, nb.Issuer, nb.H, nb.HasKey = h.Gen, h.Issuer, h.H, true
		}
		out = append(out, nb)
	}
	return out
}

// follow brings listeners and firewall in line with the newest FLEET document.
func (e *edge) follow() {
	doc := e.p.state.Doc()
	if !e.hidden {
		if err := e.packets.SetServices(e.plainServices(doc)); err != nil {
			e.log.Error("services", "err", err)
		}
	}
	guard := e.firewallConfig(doc)
	if err := e.port.Gate(gateOf(guard)); err != nil {
		e.log.Error("packet program", "err", err)
	}
	if err := e.firewall.Update(guard); err != nil {
		e.log.Error("firewall", "err", err)
	}
}
