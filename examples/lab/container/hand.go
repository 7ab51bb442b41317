package container

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"net/rpc"
	"os"
	"strconv"
	"strings"

	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/flood"
	"migrationsensor/examples/lab/scan"
)

// Hand reaches into a container: `docker exec -i NAME ms-lab hand` serves it on standard input and output by net/rpc, until
// that ends. What it does there, such as a flood, ends with it.
type Hand struct{ ctx context.Context }

// ServeHand serves on a connection until its other end closes it.
func ServeHand(ctx context.Context, conn io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := rpc.NewServer()
	if err := s.Register(&Hand{ctx}); err != nil {
		return err
	}
	s.ServeConn(conn)
	return nil
}

// Ask is a request on a control socket.
type Ask struct{ Socket, Method, Path string }

// Control asks on a control socket and returns the JSON of the answer.
func (h *Hand) Control(a Ask, out *[]byte) error {
	var into any
	var raw json.RawMessage
	if a.Method == "GET" {
		into = &raw
	}
	err := fleet.Control(h.ctx, a.Socket, a.Method, a.Path, into)
	*out = raw
	return err
}

// Flood floods and returns when the flood is over.
func (h *Hand) Flood(c flood.Config, out *flood.Result) (err error) {
	*out, err = flood.Run(h.ctx, c)
	return err
}

// Scan scans.
func (h *Hand) Scan(c scan.Config, out *scan.Result) (err error) {
	*out, err = scan.Run(h.ctx, c)
	return err
}

// Fetch fetches the file by a new connection.
func (h *Hand) Fetch(at netip.AddrPort, out *fleet.Sample) error {
	*out = fetch(h.ctx, at)
	return nil
}

// Finish has the origin end a download.
func (h *Hand) Finish(name string, out *Finished) (err error) {
	*out, err = finish(h.ctx, name)
	return err
}

// Packets counts what an interface has carried, both ways.
func (h *Hand) Packets(ifname string, out *uint64) error {
	for _, dir := range []string{"rx_packets", "tx_packets"} {
		b, err := os.ReadFile("/sys/class/net/" + ifname + "/statistics/" + dir)
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", dir, ifname, err)
		}
		*out += n
	}
	return nil
}
