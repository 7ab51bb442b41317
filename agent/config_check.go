package agent

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

type position struct{ line, column int }

// positions finds each key of a document that has been decoded already: "probe", "service.0.name".
func positions(data []byte) map[string]position {
	at := make(map[string]position)
	var p unstable.Parser
	p.Reset(data)
	prefix, index := "", make(map[string]int)
	for p.NextExpression() {
		e := p.Expression()
		name, first := "", position{}
		for k := e.Key(); k.Next(); {
			n := k.Node()
			if name == "" {
				s := p.Shape(n.Raw).Start
				first = position{s.Line, s.Column}
			} else {
				name += "."
			}
			name += string(n.Data)
		}
		switch e.Kind {
		case unstable.Table:
			prefix = name + "."
		case unstable.ArrayTable:
			prefix = name + "." + strconv.Itoa(index[name]) + "."
			index[name]++
			at[strings.TrimSuffix(prefix, ".")] = first
		default:
			at[prefix+name] = first
		}
	}
	return at
}

// checker turns a file into a Config and collects what is wrong with it.
type checker struct {
	path string
	at   map[string]position
	errs []error
}

func (c *checker) fault(key, fix, format string, args ...any) {
	p := c.at[key]
	c.errs = append(c.errs, &ConfigError{c.path, max(p.line, 1), max(p.column, 1), key, fmt.Sprintf(format, args...), fix})
}

func (c *checker) config(f file) Config {
	cfg := DefaultConfig()
	c.dir("state", f.State, &cfg.State)
	c.dir("socket", f.Socket, &cfg.Socket)
	c.device(f.Device, &cfg.Device)
	c.number("mtu", f.MTU, &cfg.MTU, 1280, 65535)
	if f.NoTUN != nil {
		cfg.NoTUN = *f.NoTUN
	}
	c.oneOf("probe", f.Probe, &cfg.Probe, ProbeWarm, ProbeEach)
	c.duration("probe_wait", f.ProbeWait, &cfg.ProbeWait, 10*time.Millisecond, time.Minute)
	c.number("probe_retries", f.ProbeRetries, &cfg.ProbeRetries, 0, 10)
	c.accept(f.Accept, &cfg.Accept)
	c.oneOf("fallback", f.Fallback, &cfg.Fallback, FallbackNone, FallbackDirect)
	c.services(f.Services, &cfg)
	c.duration("move.dwell", f.Move.Dwell, &cfg.Dwell, 0, time.Hour)
	c.number("move.max", f.Move.Max, &cfg.MaxMoves, 0, 10000)
	c.oneOf("log_level", f.LogLevel, &cfg.LogLevel, "debug", "info", "warn", "error")
	c.oneOf("log_format", f.LogFormat, &cfg.LogFormat, "auto", "text", "json")
	return cfg
}

func (c *checker) oneOf(key string, v, to *string, allowed ...string) {
	if v == nil {
		return
	}
	if !slices.Contains(allowed, *v) {
		c.fault(key, fmt.Sprintf("write one of %q", allowed), "%q is not known", *v)
		return
	}
	*to = *v
}

func (c *checker) dir(key string, v, to *string) {
	if v == nil {
		return
	}
	if !filepath.IsAbs(*v) {
		c.fault(key, "write a path that starts at the root", "%q is not an absolute path", *v)
		return
	}
	*to = *v
}

// device checks a name as Linux wants it: at most 15 bytes, no slash, no space.
func (c *checker) device(v, to *string) {
	if v == nil {
		return
	}
	if *v == "" || len(*v) > 15 || strings.ContainsAny(*v, "/ \t%:") {
		c.fault("device", "write 1 to 15 letters and digits", "%q is no device name", *v)
		return
	}
	*to = *v
}

func (c *checker) number(key string, v, to *int, low, high int) {
	if v == nil {
		return
	}
	if *v < low || *v > high {
		c.fault(key, fmt.Sprintf("write a number from %d to %d", low, high), "%d is out of range", *v)
		return
	}
	*to = *v
}

func (c *checker) duration(key string, v *string, to *time.Duration, low, high time.Duration) {
	if v == nil {
		return
	}
	d, err := time.ParseDuration(*v)
	if err != nil {
		c.fault(key, `write a number with a unit, as "300ms" or "3s"`, "%q is no duration", *v)
		return
	}
	if d < low || d > high {
		c.fault(key, fmt.Sprintf("write %v to %v", low, high), "%v is out of range", d)
		return
	}
	*to = d
}

func (c *checker) accept(v []string, to *[]netip.Prefix) {
	for _, s := range v {
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			c.fault("accept", `write addresses or prefixes, as "192.0.2.7" or "2001:db8::/64"`, "%q is no address or prefix", s)
			continue
		}
		*to = append(*to, p.Masked())
	}
}

func (c *checker) services(v []fileService, cfg *Config) {
	seen := make(map[string]bool)
	for i, s := range v {
		table := "service." + strconv.Itoa(i)
		if s.Name == "" {
			c.fault(table, `add name = "…" as the fleet calls the service`, "has no name")
			continue
		}
		if seen[s.Name] {
			c.fault(table+".name", "merge the two tables", "service %q appears twice", s.Name)
			continue
		}
		seen[s.Name] = true
		out := ServiceConfig{Name: s.Name, Fallback: cfg.Fallback}
		if s.Fallback != "" {
			c.oneOf(table+".fallback", &s.Fallback, &out.Fallback, FallbackNone, FallbackDirect)
		}
		cfg.Services = append(cfg.Services, out)
	}
}

// fallback is the setting that holds for a service.
func (c Config) fallback(service string) string {
	for _, s := range c.Services {
		if s.Name == service {
			return s.Fallback
		}
	}
	return c.Fallback
}
