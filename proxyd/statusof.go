package proxyd

import (
	"maps"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"

	"migrationsensor/detect"
	"migrationsensor/proxyd/fleet"
	"migrationsensor/proxyd/synchecker"
)

// Status tells the node's state now. It is safe to call at any time.
func (p *Proxy) Status() Status {
	n := p.state.Node()
	st := Status{
		Version: version(), Node: n.Name, ID: n.ID.String(), Kind: n.Kind, State: Active, Since: p.since,
		Why: "running", Frontends: []string{},
	}
	for _, s := range p.peers.Up() {
		st.Peers = append(st.Peers, PeerStatus{Name: s.Name, Up: s.Up, State: s.Heartbeat.State, UnderAttack: s.Heartbeat.UnderAttack})
		if s.Up && serves(State(s.Heartbeat.State)) && (s.Kind == fleet.KindEntry || s.Kind == fleet.KindHidden) {
			st.Frontends = append(st.Frontends, s.Name)
		}
	}
	slices.SortFunc(st.Peers, func(a, b PeerStatus) int { return strings.Compare(a.Name, b.Name) })
	if p.edge != nil {
		p.edge.fill(&st)
	}
	if p.inner != nil {
		p.inner.fill(&st)
	}
	slices.Sort(st.Frontends)
	return st
}

// Describe tells where each session that ends here stands, for a report of a connection that stands still.
func (p *Proxy) Describe() string {
	switch {
	case p.edge != nil:
		return p.edge.anchor.Describe()
	case p.inner != nil:
		return p.inner.anchor.Describe()
	}
	return ""
}

// serves reports whether a proxy in the state carries clients.
func serves(s State) bool { return s == Active || s == Defending || s == Draining }

func (e *edge) fill(st *Status) {
	e.mu.Lock()
	st.State, st.Since, st.Why = e.machine.state, e.machine.since, e.machine.why
	own := e.counts
	e.mu.Unlock()
	if st.Serving = serves(st.State); st.Serving {
		st.Frontends = append(st.Frontends, st.Node)
	}
	st.Rates, st.Thresholds = map[string]float64{}, map[string]float64{}
	if v := e.verdict.Load(); v != nil {
		for k, r := range v.Rates {
			st.Rates[strings.ToLower(detect.Kind(k).String())] = r
		}
	}
	th := e.p.cfg.Detector.Threshold
	for k, t := range map[string]float64{"all": th.All, "syn": th.SYN, "icmp": th.ICMP, "udp": th.UDP} {
		if t > 0 {
			st.Thresholds[k] = t
		}
	}
	var waiting int
	st.Agents, waiting = e.informer.Members()
	st.Links, st.Relayed, st.Via = e.acceptor.DataLinks(), relayed(e.acceptor), e.p.via(e.acceptor)
	if st.State == Defending || st.State == Draining {
		st.Leaving = &Leaving{Agents: st.Agents, Waiting: waiting, Links: st.Links, Plain: e.packets.Stats().Ending}
	}
	st.Sessions = e.anchor.Stats().Sessions
	st.Streams, st.Plain = e.anchor.Streams(), e.packets.Stats().Open
	st.Disclosed = e.informer.Disclosed()
	var seen map[netip.Prefix]uint64
	if e.port != nil {
		taken := e.port.Taken()
		st.Path, st.PathWhy = string(taken.Path), taken.Why
		seen, _ = e.port.Strangers() // a program that is being replaced has nothing to say
	}
	st.Strangers = e.strangers.top(seen)
	if e.firewall != nil { // not open yet
		st.Admitted = e.firewall.Admitted()
	}
	if e.checker != nil && !e.hidden {
		st.Sampling = samplingOf(e.checker.Sampling())
	}
	st.Counts = e.allCounts()
	st.Counts["suspensions"], st.Counts["links_retry"], st.Counts["clones"] = own.suspensions, own.retries, own.clones
}

func samplingOf(s synchecker.Sampling) *Sampling {
	mode := "budget"
	if s.Probability > 0 {
		mode = "probability"
	}
	return &Sampling{Mode: mode, Fresh: s.Fresh, Again: s.Again, Intake: s.Intake, Answers: s.Shares.Answers}
}

// allCounts gathers what the components counted, by the names of the README.
func (e *edge) allCounts() map[string]uint64 {
	out := map[string]uint64{}
	if e.checker != nil {
		maps.Copy(out, e.checker.Stats().Counts())
	}
	i := e.informer.Stats()
	a := e.acceptor.Stats()
	s := e.anchor.Stats()
	p := e.packets.Stats()
	maps.Copy(out, map[string]uint64{
		"userinfo": i.UserInfo, "userinfo_ok": i.UserInfoOK, "migrate": i.Migrate, "migrated": i.MigrateOK,
		"transfer": i.Transfer, "ratify": i.Ratify, "ratified": i.RatifyOK, "busy": i.Busy,
		"links": a.Accepted, "links_silenced": a.Short + a.BadMagic + a.BadKey + a.BadTag + a.BadMAC + a.BadKind + a.Replayed,
		"links_sealed": a.Sealed, "probes": a.Probes, "tls_failed": a.TLSFailed, "tls_later": a.NoTurn, "enrol": a.Enrol,
		"links_relayed": a.Relayed, "links_unreached": a.Unreached, "relay_headers": a.Passed, "relay_refused": a.BadRelay,
		"streams_opened": s.Opened, "streams_refused": s.Refused, "streams_timed_out": s.TimedOut, "streams_denied": s.Denied,
		"plain_accepted": p.Accepted, "plain_refused": p.Refused, "plain_suspended": p.Suspended,
	})
	if e.firewall != nil {
		if f, err := e.firewall.Stats(); err == nil {
			out["dropped"], out["evicted"] = f.Dropped, f.Evicted
		}
	}
	return out
}

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "unknown"
}
