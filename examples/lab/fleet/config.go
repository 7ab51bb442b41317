package fleet

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"migrationsensor/examples/lab"
)

// FileSize is the paper's picture, 760 KB.
const FileSize = 760 * 1024

// Config says what a fleet is made of.
type Config struct {
	Bin  string // where proxyd and ms-agent are; see FindBin
	Lab  string // a program with ms-lab's commands; empty is this one
	Logs string // every program's output; emptied first

	RTT      time.Duration
	Loss     float64
	LinkRate float64 // bits per second, 0 = no limit
	Seed     uint64

	Nodes    []Node    // none: DefaultNodes
	Services []Service // none: DefaultServices
	Edge     Edge      // how the edges begin
	Rescue   string    // as in proxyd.toml; empty: entries
	Restless bool      // agents move as often as they are told: dwell 0, no limit of moves

	// Cable is the name that p1's interface gets, whose cable is opened then (lab.World.OpenCable). Empty: it is as the others.
	Cable string
}

// The kinds of node.
const (
	Entry  = "entry"
	Hidden = "hidden"
	Anchor = "anchor" // on the backplane only
)

// Node is one of the fleet's nodes: p1, p2, p3, the second entry e2 or the anchor a1.
type Node struct {
	Name, Kind string
	Neighbours []string // where an edge sends its clients; nil: every other edge. It is enough that one of two names the other
}

// DefaultNodes are the paper's, P1 that is known and P2 and P3 that are not, beside them a second entry, to which agents
// turn by themselves when P1 falls silent and nobody is sent, and an anchor, so that no edge's death takes a stream along.
func DefaultNodes() []Node {
	return []Node{
		{"p1", Entry, []string{"p2", "p3"}}, {"p2", Hidden, []string{"p1", "p3"}}, {"p3", Hidden, []string{"p1", "p2"}},
		{"e2", Entry, []string{"p2", "p3", "p1"}}, {Name: "a1", Kind: Anchor},
	}
}

// PaperNodes are P1, P2 and P3 alone.
func PaperNodes() []Node {
	return []Node{{Name: "p1", Kind: Entry}, {Name: "p2", Kind: Hidden}, {Name: "p3", Kind: Hidden}}
}

// Service is a port of the entries that leads to a port of the origin.
type Service struct {
	Name         string
	Port, Origin uint16
}

// DefaultServices are what the origin serves.
func DefaultServices() []Service {
	return []Service{
		{"web", lab.WebPort, lab.OriginWeb}, {"echo", lab.EchoPort, lab.OriginEcho}, {"ssh", lab.SSHPort, lab.OriginSSH},
		{"transfer", lab.TransferPort, lab.OriginTransfer}, {"stream", lab.StreamPort, lab.OriginStream},
	}
}

// Edge is an edge's own settings: thresholds in packets/s, times, the SYN Checker's p, data path and most answers a second
// (what is not set is its default), and how many new links it takes each second (0 is its default).
type Edge struct {
	SYN, ICMP, UDP int
	Quiet, Suspend time.Duration
	P              float64
	Path           string
	Answers        int
	Rate           int
}

// fill puts in what was left out.
func (c *Config) fill() error {
	if len(c.Nodes) == 0 {
		c.Nodes = DefaultNodes()
	}
	if len(c.Services) == 0 {
		c.Services = DefaultServices()
	}
	if c.Lab == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c.Lab = self
	}
	return nil
}

// FindBin returns the folder that holds proxyd and ms-agent: the given one, or this program's own.
func FindBin(dir string) (string, error) {
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		dir = filepath.Dir(self)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"proxyd", "ms-agent"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("%w: build it with `make`, or say where it is with --bin", err)
		}
	}
	return dir, nil
}

// Paths of one program's files.
type Paths struct{ Config, State, Socket, Log string }

// dirs are where a run keeps its files: work vanishes with the sandbox, logs stay.
type dirs struct{ work, logs string }

func (d dirs) of(name string) Paths {
	return Paths{
		Config: filepath.Join(d.work, name+".toml"),
		State:  filepath.Join(d.work, name),
		Socket: filepath.Join(d.work, name+".sock"),
		Log:    filepath.Join(d.logs, name+".log"),
	}
}

func (d dirs) token(name string) string { return filepath.Join(d.work, name+".token") }

// place is where a node is.
type place struct {
	public, public6 netip.Addr
	backplane       netip.AddrPort
}

func placeOf(name string) place {
	p, b := lab.P1, lab.BackP1
	switch name {
	case "a1":
		back, _ := lab.BackA1.Port(lab.PeerPort)
		return place{backplane: back}
	case "e2":
		p, b = lab.E2, lab.BackE2
	case "p2":
		p, b = lab.P2, lab.BackP2
	case "p3":
		p, b = lab.P3, lab.BackP3
	}
	back, _ := b.Port(lab.PeerPort)
	return place{p.V4, p.V6, back}
}

// signConfig declares the fleet: services, at every entry's addresses, and all nodes.
func signConfig(p Paths, c Config) string {
	var s strings.Builder
	fmt.Fprintf(&s, "fleet = \"lab\"\nstate = %q\nsocket = %q\n", p.State, p.Socket)
	if c.Rescue != "" {
		fmt.Fprintf(&s, "rescue = %q\n", c.Rescue)
	}
	for _, x := range c.Services {
		origin, _ := lab.BackOrigin.Port(x.Origin)
		fmt.Fprintf(&s, "\n[[service]]\nname = %q\npublic = [%s]\norigin = %q\n", x.Name, c.publics(x.Port), origin)
	}
	back, _ := lab.BackSign.Port(lab.PeerPort)
	fmt.Fprintf(&s, "\n[[node]]\nname = \"sign\"\nkind = \"signer\"\nbackplane = %q\n", back)
	for _, n := range c.Nodes {
		s.WriteString(c.declare(n))
	}
	return s.String()
}

// Missing are the peers of a node that it does not see: its neighbours, which go both ways, and for an edge the anchors.
func (c Config) Missing(n Node, st ProxyStatus) (out []string) {
	up := map[string]bool{}
	for _, p := range st.Peers {
		up[p.Name] = p.Up
	}
	for _, o := range c.Nodes {
		if o.Name != n.Name && c.peers(n, o) && !up[o.Name] {
			out = append(out, o.Name)
		}
	}
	return out
}

func (c Config) peers(a, b Node) bool {
	if a.Kind == Anchor || b.Kind == Anchor {
		return a.Kind != b.Kind
	}
	names := func(n, o Node) bool { return n.Neighbours == nil || slices.Contains(n.Neighbours, o.Name) }
	return names(a, b) || names(b, a)
}

// declare is a node's own table.
func (c Config) declare(n Node) string {
	at := placeOf(n.Name)
	text := fmt.Sprintf("\n[[node]]\nname = %q\nkind = %q\nbackplane = %q\n", n.Name, n.Kind, at.backplane)
	if n.Kind == Anchor {
		return text
	}
	var others []string
	for _, o := range c.Nodes {
		if o.Name != n.Name && o.Kind != Anchor && (n.Neighbours == nil || slices.Contains(n.Neighbours, o.Name)) {
			others = append(others, fmt.Sprintf("%q", o.Name))
		}
	}
	return text + fmt.Sprintf("public = [%q, %q]\nlink_port = %d\nneighbours = [%s]\n",
		at.public, at.public6, lab.LinkPort, strings.Join(others, ", "))
}

// publics are a service's addresses: a port of every entry, in both families.
func (c Config) publics(port uint16) string {
	var all []string
	for _, n := range c.Nodes {
		if n.Kind == Entry {
			at := placeOf(n.Name)
			all = append(all, fmt.Sprintf("%q, %q", netip.AddrPortFrom(at.public, port), netip.AddrPortFrom(at.public6, port)))
		}
	}
	return strings.Join(all, ", ")
}

// edgeConfig is an edge's own settings.
func edgeConfig(p Paths, e Edge, dev string) string {
	checker := "" // the budget, and the best path that there is
	if e.P > 0 {
		checker += fmt.Sprintf("probability = %g\n", e.P)
	}
	if e.Path != "" {
		checker += fmt.Sprintf("path = %q\n", e.Path)
	}
	if e.Answers > 0 {
		checker += fmt.Sprintf("answers = %d\n", e.Answers)
	}
	if checker != "" {
		checker = "\n[syn_checker]\n" + checker
	}
	admission := ""
	if e.Rate > 0 {
		admission = fmt.Sprintf("\n[admission]\nrate = %d\nburst = %d\n", e.Rate, e.Rate)
	}
	return fmt.Sprintf(`state = %q
socket = %q
interface = %q
log_level = "debug"

[detector]
interval = "1s"
[detector.threshold]
all = 0
syn = %d
icmp = %d
udp = %d

[attack]
quiet = %q
suspend_after = %q
%s%s`, p.State, p.Socket, dev, e.SYN, e.ICMP, e.UDP, e.Quiet, e.Suspend, checker, admission)
}

// interfaceOf is the name of a node's interface to the internet.
func (c Config) interfaceOf(name string) string {
	if name == "p1" && c.Cable != "" {
		return c.Cable
	}
	return lab.Uplink
}

// anchorConfig is an anchor's own settings.
func anchorConfig(p Paths) string {
	return fmt.Sprintf("state = %q\nsocket = %q\nlog_level = \"debug\"\n", p.State, p.Socket)
}

// agentConfig is an agent's settings; probe is "warm" or "each". restless lets it move as often as it is told.
func agentConfig(p Paths, probe string, restless bool) string {
	text := fmt.Sprintf("state = %q\nsocket = %q\nprobe = %q\nlog_level = \"debug\"\nlog_format = \"text\"\n", p.State, p.Socket, probe)
	if restless {
		text += "\n[move]\ndwell = \"0s\"\nmax = 0\n"
	}
	return text
}

// NameOf gives the name of the proxy at an address, with or without a port.
func NameOf(addr string) string {
	host := addr
	if i := strings.LastIndex(addr, ":"); i >= 0 && (strings.Count(addr, ":") == 1 || strings.HasPrefix(addr, "[")) {
		host = strings.Trim(addr[:i], "[]")
	}
	switch host {
	case lab.P1.V4.String(), lab.P1.V6.String():
		return "p1"
	case lab.P2.V4.String(), lab.P2.V6.String():
		return "p2"
	case lab.P3.V4.String(), lab.P3.V6.String():
		return "p3"
	case lab.E2.V4.String(), lab.E2.V6.String():
		return "e2"
	}
	return addr
}
