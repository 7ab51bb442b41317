package proxyd

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"migrationsensor/proto"
	"migrationsensor/proxyd/firewall"
	"migrationsensor/proxyd/fleet"
)

// Proxy is one node of a fleet: an edge (the paper's P1, P2, …), an anchor or the signing node. It joins the
// components, which do not know each other, and owns the state.
type Proxy struct {
	cfg   Config
	log   *slog.Logger
	host  Host
	state *fleet.State
	peers *fleet.Peers
	since time.Time
	edge  *edge         // nil on a node that faces nobody
	inner *anchorNode   // on a node of kind anchor, else nil
	stops chan struct{} // Stop sends, Run receives; a third is dropped, never closed
}

// New opens the node's membership and checks the configuration against it. It changes nothing on
// the host. A nil log discards.
func New(cfg Config, log *slog.Logger) (*Proxy, error) { return newOn(kernel{}, cfg, log) }

// NewOn is New on another machine than this one: the lab's in memory.
func NewOn(host Host, cfg Config, log *slog.Logger) (*Proxy, error) { return newOn(host, cfg, log) }

func newOn(host Host, cfg Config, log *slog.Logger) (*Proxy, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	state, err := fleet.OpenState(cfg.State, host.Now)
	if err != nil {
		return nil, err
	}
	p := &Proxy{cfg: cfg, log: log, host: host, state: state, since: host.Now(), stops: make(chan struct{}, 2)}
	pc := fleet.PeersConfig{State: state, Dial: host.Dial, Listen: host.Listen, Log: log}
	switch state.Node().Kind {
	case fleet.KindSigner:
		signer, err := fleet.OpenSigner(state, log)
		if err != nil {
			return nil, err
		}
		if err := signer.Declare(cfg.Declaration()); err != nil {
			return nil, fmt.Errorf("declare services and nodes: %w", err)
		}
		pc.Signer = signer
	case fleet.KindEntry, fleet.KindHidden:
		if p.edge, err = newEdge(p); err != nil {
			return nil, err
		}
		pc.Handler, pc.Heartbeat = p.edge, p.edge.heartbeat
		pc.RelayLost = func(id proto.NodeID) { p.edge.acceptor.CloseNode(id) }
	case fleet.KindAnchor:
		if p.inner, err = newAnchorNode(p); err != nil {
			return nil, err
		}
		pc.Handler, pc.Heartbeat = p.inner, p.inner.heartbeat
		pc.RelayLost = func(id proto.NodeID) { p.inner.acceptor.CloseNode(id) }
	}
	if p.peers, err = fleet.NewPeers(pc); err != nil {
		return nil, err
	}
	if p.edge != nil {
		p.edge.informer.SetNeighbours(p.edge.neighbours())
	}
	return p, nil
}

// FirewallText is the packet filter as nft(8) reads it, in peace or while the node defends. It changes nothing on the host.
func (p *Proxy) FirewallText(defending bool) (string, error) {
	if p.edge == nil {
		n := p.state.Node()
		return "", fmt.Errorf("node %q (%s) guards no public interface: it has no firewall", n.Name, n.Kind)
	}
	return firewall.Text(p.edge.firewallConfig(p.state.Doc()), defending)
}

// Stop asks Run to end: first it sends its agents on, for at most `stop_wait`. Asked again, it ends at
// once.
func (p *Proxy) Stop() {
	select {
	case p.stops <- struct{}{}:
	default:
	}
}

// stopper waits for the first Stop, sends the agents on until the second, and ends the rest.
func (p *Proxy) stopper(ctx context.Context, end context.CancelFunc) {
	defer end()
	select {
	case <-ctx.Done():
		return
	case <-p.stops:
	}
	if p.edge == nil {
		return
	}
	ctx, hurry := context.WithCancel(ctx)
	defer hurry()
	left := make(chan struct{})
	go func() {
		defer close(left)
		p.edge.leave(ctx)
	}()
	select {
	case <-left:
	case <-p.stops:
		hurry()
		<-left
	}
}

// Run serves until ctx is done, which is a Stop, or a part fails. It returns after every goroutine it
// started has ended and everything on the host is undone; nil means a stop that was asked for.
func (p *Proxy) Run(ctx context.Context) error {
	control, err := ListenControl(p.cfg.Socket)
	if err != nil {
		return err
	}
	defer control.Close()
	stop := context.AfterFunc(ctx, p.Stop)
	defer stop()
	ctx, end := context.WithCancel(context.WithoutCancel(ctx)) // a stop waits for the agents
	defer end()
	if p.edge != nil {
		release, err := p.host.Lock()
		if err != nil {
			return err
		}
		defer release() // last: the firewall is gone by then
		undo, err := p.edge.open(ctx)
		if err != nil {
			return err
		}
		defer func() {
			if err := undo(); err != nil {
				p.log.Error("firewall not removed; the next start removes it", "err", err)
			}
		}()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { p.stopper(ctx, end); return nil })
	g.Go(func() error { return ServeControl(ctx, control, p) })
	g.Go(func() error { return p.peers.Run(ctx) })
	if p.edge != nil {
		p.edge.start(ctx, g)
	}
	if p.inner != nil {
		p.inner.start(ctx, g)
	}
	n := p.state.Node()
	p.log.Info("proxy running", "node", n.Name, "kind", n.Kind, "fleet", n.Fleet)
	err = g.Wait()
	p.log.Info("proxy stopped", "node", n.Name)
	return err
}
