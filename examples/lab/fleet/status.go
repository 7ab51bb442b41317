package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"
)

// ProxyStatus is what the lab reads of `proxyd status --json`.
type ProxyStatus struct {
	State   string
	Since   time.Time
	Why     string
	Serving bool
	Rates   map[string]float64
	Counts  map[string]uint64
	Agents  int
	Streams int
	Plain   int
	Peers   []struct {
		Name string
		Up   bool
	}
}

// AgentStatus is what the lab reads of `ms-agent status --json`.
type AgentStatus struct {
	State string
	Why   string
	Edge  *struct {
		Node, Addr string
		Since      time.Time
	}
	Links     []struct{ Kind, Addr string }
	Protected []string
	Counts    struct{ Opened, Refused, TimedOut, Failed, Moves, Transfers, TUNPackets uint64 }
	Events    []struct {
		Time         time.Time
		What, Detail string
	}
}

// ServedBy is the address of the proxy that carries its connections: where its data links go, which is where the control
// link goes but for moments. Empty: it has none.
func (s AgentStatus) ServedBy() string {
	for _, l := range s.Links {
		if l.Kind == "data" { // those for new streams come first
			return l.Addr
		}
	}
	if s.Edge != nil {
		return s.Edge.Addr
	}
	return ""
}

// Control speaks HTTP on a control socket.
func Control(ctx context.Context, socket, method, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("control socket %s: %s", socket, res.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(into)
}
