package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
)

// project is compose's name for the demo, as examples/compose/.env sets it.
const (
	project       = "migrationsensor"
	projectFilter = "label=com.docker.compose.project=" + project
	driverLabel   = "migrationsensor.driver"
)

// ErrBusy says that the demo can't begin beside something that is there already; what wraps it says what, and what to do.
var ErrBusy = errors.New("the compose demo can't begin")

func decode(raw []byte, into any) error { return json.Unmarshal(raw, into) }

// kinds are what a project consists of, and how it is listed and who made it.
var kinds = []struct {
	name   string
	list   []string
	remove []string
	format string
}{
	{"container", []string{"ps", "-aq"}, []string{"rm", "-f", "-v"}, `{{index .Config.Labels "` + driverLabel + `"}}|{{.Name}}`},
	{"network", []string{"network", "ls", "-q"}, []string{"network", "rm"}, `{{index .Labels "` + driverLabel + `"}}|{{.Name}}`},
	{"volume", []string{"volume", "ls", "-q"}, []string{"volume", "rm", "-f"}, `{{index .Labels "` + driverLabel + `"}}|{{.Name}}`},
}

// Clear makes sure that nothing of the demo is there. What a killed driver left is removed, with a word; what a person started is not,
// and is an error. Call it while no other driver can run.
func (e *Engine) Clear(ctx context.Context, say func(string, ...any)) error {
	left := 0
	for _, k := range kinds {
		ids, err := e.list(ctx, append(k.list[:len(k.list):len(k.list)], "--filter", projectFilter)...)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			continue
		}
		args := []string{"inspect", "--type", k.name, "--format", k.format}
		out, err := e.Docker(ctx, append(args, ids...)...)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			driver, name, _ := strings.Cut(strings.TrimSpace(line), "|")
			if driver == "" {
				return fmt.Errorf("%w: somebody has started it by hand (%s %s is there). To end that: (cd examples/compose && docker-compose down -v)",
					ErrBusy, k.name, strings.TrimPrefix(name, "/"))
			}
		}
		left += len(ids)
	}
	if left > 0 {
		say("an earlier run was killed: %d containers, networks and volumes of it are removed", left)
		if err := e.Down(context.WithoutCancel(ctx)); err != nil { // half of it is of no use to anybody
			return err
		}
	}
	return e.overlaps(ctx)
}

// overlaps refuses to begin where a network of somebody else has our addresses.
func (e *Engine) overlaps(ctx context.Context) error {
	ids, err := e.list(ctx, "network", "ls", "-q")
	if err != nil || len(ids) == 0 {
		return err
	}
	out, err := e.Docker(ctx, append([]string{"network", "inspect", "--format", "{{.Name}}{{range .IPAM.Config}} {{.Subnet}}{{end}}"}, ids...)...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		for _, subnet := range fields[min(1, len(fields)):] {
			p, err := netip.ParsePrefix(subnet)
			if err == nil && slices.ContainsFunc(Subnets, p.Overlaps) {
				return fmt.Errorf("%w: the docker network %s has its addresses (%s). To remove that network: docker network rm %s", ErrBusy, fields[0], subnet, fields[0])
			}
		}
	}
	return nil
}

// Subnets are compose.yaml's. A test holds them together.
var Subnets = []netip.Prefix{
	netip.MustParsePrefix("198.18.0.0/20"), netip.MustParsePrefix("198.18.72.0/24"),
	netip.MustParsePrefix("198.18.80.0/24"), netip.MustParsePrefix("198.18.81.0/24"),
}

// Bridges are the host's interfaces that the demo's networks have.
func (e *Engine) Bridges(ctx context.Context) (all []string, err error) {
	ids, err := e.list(ctx, "network", "ls", "-q", "--filter", projectFilter)
	for _, id := range ids {
		all = append(all, "br-"+id)
	}
	return all, err
}

// Down removes all that there is of the demo, its image too.
func (e *Engine) Down(ctx context.Context) error {
	e.EndHands()
	_, err := e.Compose(ctx, "down", "-v", "--rmi", "all", "--remove-orphans", "-t", "3")
	left, lerr := e.Left(ctx)
	if lerr == nil && len(left) == 0 {
		return nil // an image that is not there is an error to some
	}
	// Compose has not done it: piece by piece.
	for _, k := range kinds {
		ids, lerr := e.list(ctx, append(k.list[:len(k.list):len(k.list)], "--filter", projectFilter)...)
		if lerr == nil && len(ids) > 0 {
			_, lerr = e.Docker(ctx, append(k.remove[:len(k.remove):len(k.remove)], ids...)...)
		}
		err = errors.Join(err, lerr)
	}
	if left, lerr = e.Left(ctx); lerr == nil && len(left) == 0 {
		return nil
	}
	return errors.Join(err, lerr, fmt.Errorf("left behind: %s", strings.Join(left, ", ")))
}

// Left lists what there is of the demo at the engine.
func (e *Engine) Left(ctx context.Context) (all []string, err error) {
	for _, k := range kinds {
		ids, err := e.list(ctx, append(k.list[:len(k.list):len(k.list)], "--filter", projectFilter)...)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			all = append(all, k.name+" "+id)
		}
	}
	return all, nil
}

// LeftOnHost lists what of some bridges is still on this machine: the interface itself, and rules that name it. skipped says why
// rules could not be read.
func LeftOnHost(ctx context.Context, bridges []string) (all []string, skipped string) {
	for _, b := range bridges {
		if _, err := net.InterfaceByName(b); err == nil {
			all = append(all, "interface "+b)
		}
	}
	out, err := exec.CommandContext(ctx, "iptables-save").Output()
	if err != nil {
		return all, "rules were not looked at: iptables-save: " + err.Error()
	}
	for line := range strings.Lines(string(out)) {
		if slices.ContainsFunc(bridges, func(b string) bool { return strings.Contains(line, b) }) {
			all = append(all, "rule "+strings.TrimSpace(line))
		}
	}
	return all, ""
}
