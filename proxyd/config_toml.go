package proxyd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// keyKind is what a key of the file takes, and how to write it right.
type keyKind struct {
	kinds []unstable.Kind
	fix   string
}

var (
	str   = []unstable.Kind{unstable.String}
	list  = []unstable.Kind{unstable.Array}
	table = []unstable.Kind{unstable.Table}
	multi = []unstable.Kind{unstable.ArrayTable}
	num   = []unstable.Kind{unstable.Integer, unstable.Float}
	whole = []unstable.Kind{unstable.Integer}
	truth = []unstable.Kind{unstable.Bool}
)

// schema is every key that there is.
var schema = map[string]keyKind{
	"state":     {str, `write a directory, such as "/var/lib/migrationsensor/proxyd"`},
	"socket":    {str, `write a file name, such as "/run/migrationsensor/proxyd.sock"`},
	"log_level": {str, `write "debug", "info", "warn" or "error"`},
	"fleet":     {str, `write a name of letters, digits and hyphens, such as "example"`},
	"rescue":    {str, `write "entries", or "standby" to tell each agent one next proxy ahead`},
	"interface": {str, `write an interface name, such as "eth0"`},

	"service":                {multi, "write [[service]], once for each service"},
	"service.name":           {str, `write a name of letters, digits and hyphens, such as "web"`},
	"service.public":         {list, `write a list of addresses with port, such as ["203.0.113.10:443", "[2001:db8::10]:443"]`},
	"service.origin":         {str, `write host:port as this service's edges reach it, such as "10.0.0.80:443"`},
	"service.groups":         {list, `write a list of names, such as ["staff"]`},
	"service.plain":          {str, `write "cookie", "drop" or "admit"`},
	"service.proxy_protocol": {truth, "write true or false"},
	"service.anchors":        {list, `write a list of node names in order of preference, such as ["a1", "p2"], or leave it out`},

	"node":             {multi, "write [[node]], once for each node"},
	"node.name":        {str, `write a name of letters, digits and hyphens, such as "p1"`},
	"node.kind":        {str, `write "entry", "hidden", "anchor" or "signer"`},
	"node.public":      {list, `write a list of addresses, at most one IPv4 and one IPv6, such as ["203.0.113.10"]`},
	"node.link_port":   {whole, "write a port from 1 to 65535, 7443 if in doubt"},
	"node.backplane":   {str, `write an address with port, such as "10.0.0.1:7444"`},
	"node.relay_ports": {list, "write a list of ports, such as [7445, 7446], or leave it out: the four after the backplane's"},
	"node.neighbours":  {list, `write a list of node names, such as ["p2", "p3"]`},

	"detector":                {table, "write [detector]"},
	"detector.interval":       {str, `write a duration, such as "1s"`},
	"detector.threshold":      {table, "write [detector.threshold]"},
	"detector.threshold.all":  {num, "write packets per second, 0 to turn it off"},
	"detector.threshold.syn":  {num, "write packets per second, 0 to turn it off"},
	"detector.threshold.icmp": {num, "write packets per second, 0 to turn it off"},
	"detector.threshold.udp":  {num, "write packets per second, 0 to turn it off"},

	"attack":               {table, "write [attack]"},
	"attack.quiet":         {str, `write a duration, such as "30s"`},
	"attack.suspend_after": {str, `write a duration, such as "30s"`},

	"syn_checker":             {table, "write [syn_checker]"},
	"syn_checker.path":        {str, `write "auto", "xdp-native", "xdp-generic" or "af_packet"`},
	"syn_checker.probability": {num, "write a share, such as 0.25, or leave it out: as many as answers and processor allow"},
	"syn_checker.answers":     {num, "write SYN-ACKs per second, 100000 if in doubt"},
	"syn_checker.processor":   {num, "write a share of one core, 0.5 if in doubt"},

	"stop_wait":       {str, `write a duration of up to a minute, such as "5s", or "0s" to stop at once`},
	"admission":       {table, "write [admission]"},
	"admission.rate":  {whole, "write new links per second, 0 for no limit"},
	"admission.burst": {whole, "write a number of links, 500 if in doubt"},

	"firewall":       {table, "write [firewall]"},
	"firewall.allow": {list, `write a list of prefixes, such as ["192.0.2.0/24"]`},
}

// place is where a value stands.
type place struct{ line, column int }

// scanner walks the file before it is decoded: unknown keys and values of the wrong kind get better
// sentences this way, and later checks know where each value stands.
type scanner struct {
	file   string
	parser unstable.Parser
	places map[string]place // by path with index: node[1].link_port
	errs   []Mistake

	path  string         // of the table that is open: node[1]
	name  string         // the same without index: node
	count map[string]int // [[…]] seen, by name
}

// scanConfig returns where each value stands, and what is wrong with the keys.
func scanConfig(file string, text []byte) (map[string]place, []Mistake) {
	s := scanner{file: file, places: map[string]place{}, count: map[string]int{}}
	s.parser.Reset(text)
	for s.parser.NextExpression() {
		e := s.parser.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			s.open(e)
		case unstable.KeyValue:
			s.keyValue(s.path, s.name, e)
		default:
		}
	}
	if s.parser.Error() != nil { // bad TOML: the decoder says where, in line and column
		var any map[string]any
		if err := toml.Unmarshal(text, &any); err != nil {
			s.errs = append(s.errs, decodeMistake(file, err))
		}
	}
	return s.places, s.errs
}

func (s *scanner) open(e *unstable.Node) {
	name, at := s.key(e)
	if e.Kind == unstable.ArrayTable {
		s.path = fmt.Sprintf("%s[%d]", name, s.count[name])
		s.count[name]++
	} else {
		s.path = name
	}
	s.name = name
	s.places[s.path] = at
	s.known(name, at, e.Kind)
}

// key joins a dotted key and says where it starts.
func (s *scanner) key(e *unstable.Node) (string, place) {
	var parts []string
	var at place
	for it := e.Key(); it.Next(); {
		if n := it.Node(); len(parts) == 0 {
			at = s.at(n)
		}
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, "."), at
}

func (s *scanner) at(n *unstable.Node) place {
	p := s.parser.Shape(n.Raw).Start
	return place{p.Line, p.Column}
}

func (s *scanner) keyValue(path, name string, e *unstable.Node) {
	key, at := s.key(e)
	path, name = join(path, key), join(name, key)
	v := e.Value()
	s.places[path] = at
	if v.Kind == unstable.InlineTable {
		if s.known(name, at, unstable.Table) {
			for it := v.Children(); it.Next(); {
				s.keyValue(path, name, it.Node())
			}
		}
		return
	}
	if !s.known(name, at, v.Kind) || v.Kind != unstable.Array {
		return
	}
	i := 0
	for it := v.Children(); it.Next(); i++ {
		n := it.Node()
		if n.Kind != itemKind(name) {
			s.mistake(at, name, fmt.Sprintf("item %d is %s", i+1, kindName(n.Kind)), schema[name].fix)
			continue
		}
		s.places[fmt.Sprintf("%s[%d]", path, i)] = s.at(n)
	}
}

// itemKind is what a list is of: strings, but for one.
func itemKind(name string) unstable.Kind {
	if name == "node.relay_ports" {
		return unstable.Integer
	}
	return unstable.String
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// known reports whether the key exists and takes this kind of value.
func (s *scanner) known(name string, at place, kind unstable.Kind) bool {
	want, ok := schema[name]
	switch {
	case !ok:
		s.mistake(at, name, "there is no such key", suggest(name))
		return false
	case !slices.Contains(want.kinds, kind):
		s.mistake(at, name, "is "+kindName(kind), want.fix)
		return false
	}
	return true
}

func (s *scanner) mistake(at place, key, what, fix string) {
	if len(s.errs) < 20 { // a file of another program has hundreds
		s.errs = append(s.errs, Mistake{s.file, at.line, at.column, key, what, fix})
	}
}

func kindName(k unstable.Kind) string {
	switch k {
	case unstable.String:
		return "text in quotes"
	case unstable.Integer, unstable.Float:
		return "a number"
	case unstable.Bool:
		return "true or false"
	case unstable.Array:
		return "a list"
	case unstable.Table, unstable.InlineTable:
		return "a table"
	case unstable.ArrayTable:
		return "a list of tables"
	default:
		return "a date or time"
	}
}

// suggest names the known key that looks most like this one, or all of its table.
func suggest(name string) string {
	table, _ := cutLast(name)
	var near []string
	best := 3
	for _, k := range slices.Sorted(maps.Keys(schema)) {
		t, leaf := cutLast(k)
		if d := distance(k, name); d < best {
			best = d
			near = []string{k}
		}
		if t == table && best == 3 {
			near = append(near, leaf)
		}
	}
	switch {
	case best < 3:
		return fmt.Sprintf("did you mean %s?", near[0])
	case table != "" && len(near) > 0:
		return fmt.Sprintf("%s takes %s", table, strings.Join(near, ", "))
	}
	return "remove it, or see `proxyd check --help` for every key"
}

func cutLast(s string) (before, after string) {
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return "", s
}

// distance counts the letters to insert, delete or replace from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// decodeMistake turns the decoder's error into a sentence of ours.
func decodeMistake(file string, err error) Mistake {
	m := Mistake{File: file, Line: 1, Column: 1, What: strings.TrimPrefix(err.Error(), "toml: ")}
	if de, ok := errors.AsType[*toml.DecodeError](err); ok {
		m.Line, m.Column = de.Position()
		m.Key = strings.Join(de.Key(), ".")
	}
	m.What, _, _ = strings.Cut(m.What, " into struct field") // Go's names help nobody
	m.Fix = schema[m.Key].fix
	return m
}
