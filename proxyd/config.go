package proxyd

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"migrationsensor/proxyd/synchecker"
)

// Where things are unless the configuration says otherwise.
const (
	DefaultConfigFile = "/etc/migrationsensor/proxyd.toml"
	DefaultState      = "/var/lib/migrationsensor/proxyd"
	DefaultSocket     = "/run/migrationsensor/proxyd.sock"
	DefaultLinkPort   = 7443
	DefaultPeerPort   = 7444
	relayPorts        = 4 // by default those after the backplane's: one port gives an edge about 28,000 connections
)

// Config is proxyd.toml. Services and nodes are declared on the signing node only, which gives them
// to all others as a signed document; the settings of an edge are on that edge.
type Config struct {
	File     string     `toml:"-"` // where it was read from; empty: none
	State    string     `toml:"state"`
	Socket   string     `toml:"socket"`
	LogLevel slog.Level `toml:"log_level"`

	// Signing node.
	Fleet    string          `toml:"fleet"`
	Rescue   string          `toml:"rescue"` // whom an agent asks whose edge falls silent: "entries", or "standby": an address it is told ahead
	Services []ServiceConfig `toml:"service"`
	Nodes    []NodeConfig    `toml:"node"`

	// Edge.
	Interface  string           `toml:"interface"` // empty: the one that has the public address
	Detector   DetectorConfig   `toml:"detector"`
	Attack     AttackConfig     `toml:"attack"`
	SYNChecker SYNCheckerConfig `toml:"syn_checker"`
	Firewall   FirewallConfig   `toml:"firewall"`
	Admission  AdmissionConfig  `toml:"admission"`
	StopWait   Duration         `toml:"stop_wait"` // a stop waits so long for its agents to go elsewhere; 0: not at all
}

// ServiceConfig is one [[service]]: a named origin and the addresses that clients dial for it.
type ServiceConfig struct {
	Name          string           `toml:"name"`
	Public        []netip.AddrPort `toml:"public"`
	Origin        string           `toml:"origin"`         // host:port
	Groups        []string         `toml:"groups"`         // agents that may use it; none: all
	Plain         string           `toml:"plain"`          // clients without an agent during an attack: "cookie" (default), "drop" or "admit"
	ProxyProtocol bool             `toml:"proxy_protocol"` // tell the origin the client's address
	Anchors       []string         `toml:"anchors"`        // who may end its sessions, in order of preference; none: the fleet's order
}

// NodeConfig is one [[node]] of the fleet.
type NodeConfig struct {
	Name       string         `toml:"name"`
	Kind       string         `toml:"kind"`   // entry, hidden, anchor or signer
	Public     []netip.Addr   `toml:"public"` // at most one IPv4 and one IPv6
	LinkPort   uint16         `toml:"link_port"`
	Backplane  netip.AddrPort `toml:"backplane"`
	RelayPorts []uint16       `toml:"relay_ports"` // on the backplane's address: where edges pass data links on to it
	Neighbours []string       `toml:"neighbours"`  // to whom it gives a handover key, and where it sends its clients
}

// DetectorConfig is [detector]: the paper's interval, of which the Detector watches the last one in steps
// of a tenth, and a threshold for each kind of packet.
type DetectorConfig struct {
	Interval  Duration        `toml:"interval"`
	Threshold ThresholdConfig `toml:"threshold"`
}

// ThresholdConfig is [detector.threshold], in packets per second; 0 turns a kind off.
type ThresholdConfig struct {
	All  float64 `toml:"all"`
	SYN  float64 `toml:"syn"`
	ICMP float64 `toml:"icmp"`
	UDP  float64 `toml:"udp"`
}

// AttackConfig is [attack].
type AttackConfig struct {
	Quiet        Duration `toml:"quiet"`         // below every threshold for this long: the attack is over
	SuspendAfter Duration `toml:"suspend_after"` // streams still on an attacked proxy are given up after this
}

// SYNCheckerConfig is [syn_checker].
type SYNCheckerConfig struct {
	Path        string  `toml:"path"`        // how it sees packets: auto, xdp-native, xdp-generic or af_packet
	Probability float64 `toml:"probability"` // share of ordinary SYNs that are answered, the paper's p; 0: what the others allow
	Answers     float64 `toml:"answers"`     // most SYN-ACKs a second
	Processor   float64 `toml:"processor"`   // share of one core that answering may take
}

// FirewallConfig is [firewall].
type FirewallConfig struct {
	Allow []netip.Prefix `toml:"allow"` // management: never dropped
}

// AdmissionConfig is [admission]: how many new links a second this edge takes; the others are told to
// come again. Clients that it sends on are spread over the next proxy's, which it takes for the same.
type AdmissionConfig struct {
	Rate  int `toml:"rate"`  // 0: no limit
	Burst int `toml:"burst"` // beyond it, at once
}

// Duration is a time.Duration written as "30s".
type Duration struct{ time.Duration }

// UnmarshalText parses "1m30s".
func (d *Duration) UnmarshalText(b []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(b))
	return err
}

// MarshalText writes it as UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// defaultAnswers are 67 Mbit/s on the wire, with Ethernet's gaps: a flood can't fill the smallest line in
// use with our answers, nor an innocent's by way of us. Ten thousand clients that come within a second
// and dial four times each ask for less than half.
const defaultAnswers = 100_000

// DefaultConfig is what an empty file means. The interval is the paper's; it gives no thresholds
// ("set by hand for each condition"), so these are ours, for a small site.
func DefaultConfig() Config {
	return Config{
		State:  DefaultState,
		Socket: DefaultSocket,
		Detector: DetectorConfig{
			Interval:  Duration{time.Second},
			Threshold: ThresholdConfig{All: 100_000, SYN: 2_000, ICMP: 1_000, UDP: 10_000},
		},
		Attack:     AttackConfig{Quiet: Duration{30 * time.Second}, SuspendAfter: Duration{30 * time.Second}},
		SYNChecker: SYNCheckerConfig{Path: string(synchecker.PathAuto), Answers: defaultAnswers, Processor: 0.5},
		Admission:  AdmissionConfig{Rate: 2000, Burst: 500},
		StopWait:   Duration{5 * time.Second},
	}
}

// LoadConfig reads a file. With an empty name it reads DefaultConfigFile, which may be missing.
func LoadConfig(name string) (Config, error) {
	file := name
	if file == "" {
		file = DefaultConfigFile
	}
	b, err := os.ReadFile(file)
	if name == "" && os.IsNotExist(err) {
		return DefaultConfig(), nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	return ParseConfig(file, b)
}

// ParseConfig reads the text of a configuration file. Its error is a ConfigError: every mistake,
// each with its place and the fix.
func ParseConfig(file string, text []byte) (Config, error) {
	places, errs := scanConfig(file, text)
	if len(errs) > 0 {
		return Config{}, ConfigError(errs)
	}
	cfg := DefaultConfig()
	cfg.File = file
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&cfg); err != nil {
		return Config{}, ConfigError{decodeMistake(file, err)}
	}
	cfg.fill()
	c := checker{file: file, places: places, cfg: &cfg}
	if c.check(); len(c.errs) > 0 {
		return Config{}, ConfigError(c.sorted())
	}
	return cfg, nil
}

// fill puts in what depends on other values.
func (c *Config) fill() {
	for i := range c.Services {
		if c.Services[i].Plain == "" {
			c.Services[i].Plain = PlainCookie
		}
	}
	for i := range c.Nodes {
		if n := &c.Nodes[i]; n.LinkPort == 0 && len(n.Public) > 0 {
			n.LinkPort = DefaultLinkPort
		}
		c.Nodes[i].fillRelayPorts()
	}
}

// relays reports whether data links can end at this kind of node.
func (n *NodeConfig) relays() bool {
	return n.Kind == "anchor" || n.Kind == "entry" || n.Kind == "hidden"
}

func (n *NodeConfig) fillRelayPorts() {
	if len(n.RelayPorts) > 0 || !n.relays() || int(n.Backplane.Port())+relayPorts > 0xffff {
		return
	}
	for i := range uint16(relayPorts) {
		n.RelayPorts = append(n.RelayPorts, n.Backplane.Port()+1+i)
	}
}

// Signing reports whether this is the configuration of the signing node.
func (c *Config) Signing() bool { return c.Fleet != "" }

// ConfigError is everything that is wrong with a configuration.
type ConfigError []Mistake

func (e ConfigError) Error() string {
	lines := make([]string, len(e))
	for i, m := range e {
		lines[i] = m.Error()
	}
	return strings.Join(lines, "\n")
}

// Mistake is one thing wrong in a configuration file.
type Mistake struct {
	File         string
	Line, Column int
	Key          string
	What, Fix    string
}

func (m Mistake) Error() string {
	s := fmt.Sprintf("%s:%d:%d: ", m.File, m.Line, m.Column)
	if m.Key != "" {
		s += m.Key + ": "
	}
	s += m.What
	if m.Fix != "" {
		s += ": " + m.Fix
	}
	return s
}
