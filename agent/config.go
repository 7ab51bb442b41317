package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// DefaultConfigFile is read when no other is named; it need not exist.
const DefaultConfigFile = "/etc/migrationsensor/ms-agent.toml"

// Values of [Config.Probe] and [Config.Fallback].
const (
	ProbeWarm      = "warm" // links are probed and set up ahead of time; ours
	ProbeEach      = "each" // every connection is probed; the paper's
	FallbackNone   = "none"
	FallbackDirect = "direct"
)

// Config of an [Agent]. Start from [DefaultConfig] or [LoadConfig].
type Config struct {
	State  string // directory of key and state
	Socket string // unix socket for status and down; "" means none

	Device string // name of the TUN
	MTU    int
	NoTUN  bool // leave the machine alone: only DialContext opens connections

	Probe        string
	ProbeWait    time.Duration // how long one handshake may take in probe = "each"
	ProbeRetries int           // further probes after an unanswered one; 0 in the paper

	Accept   []netip.Prefix // if not empty, only addresses within are protected
	Fallback string         // what happens where nobody speaks our protocol
	Services []ServiceConfig

	Dwell    time.Duration // least time between two moves asked by a proxy
	MaxMoves int           // in ten minutes; 0 means no limit

	LogLevel  string // debug, info, warn, error
	LogFormat string // auto, text, json

	Token    string        `json:"-"` // ms://join/…, for the first start
	JoinWait time.Duration `json:"-"` // how long joining is tried again while no entry answers
}

// ServiceConfig overrides settings for one service.
type ServiceConfig struct {
	Name     string
	Fallback string
}

// DefaultConfig is what an empty file means.
func DefaultConfig() Config {
	return Config{
		State: "/var/lib/migrationsensor/agent", Socket: "/run/migrationsensor/ms-agent.sock",
		Device: "ms0", MTU: 1500,
		Probe: ProbeWarm, ProbeWait: 3 * time.Second, ProbeRetries: 2,
		Fallback: FallbackNone,
		Dwell:    3 * time.Second, MaxMoves: 16,
		LogLevel: "info", LogFormat: "auto",
	}
}

// file is the layout of ms-agent.toml. Pointers tell what is absent from what is zero.
type file struct {
	State        *string       `toml:"state"`
	Socket       *string       `toml:"socket"`
	Device       *string       `toml:"device"`
	MTU          *int          `toml:"mtu"`
	NoTUN        *bool         `toml:"no_tun"`
	Probe        *string       `toml:"probe"`
	ProbeWait    *string       `toml:"probe_wait"`
	ProbeRetries *int          `toml:"probe_retries"`
	Accept       []string      `toml:"accept"`
	Fallback     *string       `toml:"fallback"`
	Services     []fileService `toml:"service"`
	Move         fileMove      `toml:"move"`
	LogLevel     *string       `toml:"log_level"`
	LogFormat    *string       `toml:"log_format"`
}

type fileService struct {
	Name     string `toml:"name"`
	Fallback string `toml:"fallback"`
}

type fileMove struct {
	Dwell *string `toml:"dwell"`
	Max   *int    `toml:"max"`
}

// knownKeys lists the keys of each table, for the sentence about one that is not.
var knownKeys = map[string][]string{
	"": {"accept", "device", "fallback", "log_format", "log_level", "mtu", "no_tun", "probe", "probe_retries", "probe_wait",
		"service", "socket", "state", "move"},
	"service": {"fallback", "name"},
	"move":    {"dwell", "max"},
}

// LoadConfig reads path. An error names file, line, column, key and the fix. If path is [DefaultConfigFile] and does
// not exist, the defaults hold.
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && path == DefaultConfigFile {
		return DefaultConfig(), nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	return parseConfig(path, data)
}

func parseConfig(path string, data []byte) (Config, error) {
	var f file
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return Config{}, decodeError(path, err)
	}
	c := checker{path: path, at: positions(data)}
	cfg := c.config(f)
	return cfg, errors.Join(c.errs...)
}

func decodeError(path string, err error) error {
	if missing, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		errs := make([]error, 0, len(missing.Errors))
		for _, e := range missing.Errors {
			line, col := e.Position()
			errs = append(errs, &ConfigError{path, line, col, dotted(e.Key()), "is no setting of ms-agent", suggestion(e.Key())})
		}
		return errors.Join(errs...)
	}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, col := e.Position()
		return &ConfigError{path, line, col, dotted(e.Key()), strings.TrimPrefix(e.Error(), "toml: "), "correct the value or the syntax"}
	}
	return fmt.Errorf("%s: %w", path, err)
}

// ConfigError is one fault in a configuration file.
type ConfigError struct {
	File         string
	Line, Column int
	Key          string
	Fault, Fix   string
}

func (e *ConfigError) Error() string {
	key := ""
	if e.Key != "" {
		key = e.Key + ": "
	}
	return fmt.Sprintf("%s:%d:%d: %s%s (%s)", e.File, e.Line, e.Column, key, e.Fault, e.Fix)
}

func dotted(k toml.Key) string { return strings.Join(k, ".") }

// suggestion names the known key that is most like the last part of k.
func suggestion(k toml.Key) string {
	if len(k) == 0 {
		return "remove it"
	}
	table := strings.Join(k[:len(k)-1], ".")
	known := knownKeys[table]
	best, dist := "", 3
	for _, name := range known {
		if d := distance(name, k[len(k)-1]); d < dist {
			best, dist = name, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %s?", best)
	case len(known) > 0:
		return "known here: " + strings.Join(slices.Sorted(slices.Values(known)), ", ")
	}
	return "remove it"
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}

// Validate checks a Config that did not come from a file.
func (c Config) Validate() error {
	switch {
	case c.State == "":
		return errors.New("no state directory")
	case !filepath.IsAbs(c.State):
		return fmt.Errorf("state directory %q is not an absolute path", c.State)
	case c.Probe != ProbeWarm && c.Probe != ProbeEach:
		return fmt.Errorf("probe %q is neither %q nor %q", c.Probe, ProbeWarm, ProbeEach)
	case c.Fallback != FallbackNone && c.Fallback != FallbackDirect:
		return fmt.Errorf("fallback %q is neither %q nor %q", c.Fallback, FallbackNone, FallbackDirect)
	case c.ProbeWait <= 0 || c.ProbeRetries < 0:
		return errors.New("probe_wait has to be positive and probe_retries not negative")
	case !c.NoTUN && c.Device == "":
		return errors.New("no name for the TUN device")
	}
	return nil
}
