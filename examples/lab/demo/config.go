package demo

import (
	"fmt"
	"path/filepath"
	"strings"

	"migrationsensor/examples/lab"
)

// nodes are the fleet's edges, in the order in which they are shown.
var nodes = []struct{ name, kind string }{{"p1", "entry"}, {"p2", "hidden"}, {"p3", "hidden"}}

// paths of one program's files.
type paths struct{ config, state, socket, log string }

func (d dirs) of(name string) paths {
	return paths{
		config: filepath.Join(d.work, name+".toml"),
		state:  filepath.Join(d.work, name),
		socket: filepath.Join(d.work, name+".sock"),
		log:    filepath.Join(d.logs, name+".log"),
	}
}

// dirs are where a run keeps its files: work vanishes with the sandbox, logs stay.
type dirs struct{ work, logs string }

func (d dirs) token(name string) string { return filepath.Join(d.work, name+".token") }

// signConfig declares the fleet: the two services and all nodes.
func signConfig(p paths) string {
	var s strings.Builder
	fmt.Fprintf(&s, "fleet = \"lab\"\nstate = %q\nsocket = %q\n", p.state, p.socket)
	for _, x := range []struct {
		name         string
		port, origin uint16
	}{{"web", lab.WebPort, lab.OriginWeb}, {"echo", lab.EchoPort, lab.OriginEcho}} {
		v4, v6 := lab.P1.Port(x.port)
		origin, _ := lab.BackOrigin.Port(x.origin)
		fmt.Fprintf(&s, "\n[[service]]\nname = %q\npublic = [%q, %q]\norigin = %q\n", x.name, v4, v6, origin)
	}
	back, _ := lab.BackSign.Port(lab.PeerPort)
	fmt.Fprintf(&s, "\n[[node]]\nname = \"sign\"\nkind = \"signer\"\nbackplane = %q\n", back)
	p1, p2, p3 := lab.P1, lab.P2, lab.P3
	b1, _ := lab.BackP1.Port(lab.PeerPort)
	b2, _ := lab.BackP2.Port(lab.PeerPort)
	b3, _ := lab.BackP3.Port(lab.PeerPort)
	for _, n := range []struct{ name, kind, public, back, neighbours string }{
		{"p1", "entry", fmt.Sprintf("%q, %q", p1.V4, p1.V6), b1.String(), `"p2", "p3"`},
		{"p2", "hidden", fmt.Sprintf("%q, %q", p2.V4, p2.V6), b2.String(), `"p1", "p3"`},
		{"p3", "hidden", fmt.Sprintf("%q, %q", p3.V4, p3.V6), b3.String(), `"p1", "p2"`},
	} {
		fmt.Fprintf(&s, "\n[[node]]\nname = %q\nkind = %q\npublic = [%s]\nlink_port = %d\nbackplane = %q\nneighbours = [%s]\n",
			n.name, n.kind, n.public, lab.LinkPort, n.back, n.neighbours)
	}
	return s.String()
}

// edgeConfig is an edge's own settings: its interface, thresholds and times.
func edgeConfig(p paths, o *Options) string {
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
`, p.state, p.socket, lab.Uplink, o.threshold(), o.threshold(), o.threshold(), o.Quiet, o.Suspend)
}

// agentConfig is an agent's settings; probe is "warm" or "each".
func agentConfig(p paths, probe string) string {
	return fmt.Sprintf("state = %q\nsocket = %q\nprobe = %q\nlog_level = \"debug\"\nlog_format = \"text\"\n", p.state, p.socket, probe)
}

// nameOf gives the name of the proxy at an address, with or without a port.
func nameOf(addr string) string {
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
	}
	return addr
}
