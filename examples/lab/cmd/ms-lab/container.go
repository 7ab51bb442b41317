package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/container"
)

// containerCmd is what the containers of examples/compose run beside proxyd and ms-agent.
type containerCmd struct {
	Router   routerCmd   `cmd:"" help:"Be the internet between clients and proxies."`
	Origin   onlyCmd     `cmd:"" name:"origin" help:"Be the protected server: the file, echo, ssh and downloads without an end."`
	Site     siteCmd     `cmd:"" help:"Be a server that nobody protects."`
	Operator operatorCmd `cmd:"" help:"Make the fleet and the tokens that are missing, by proxyd's own commands."`
	Visit    visitCmd    `cmd:"" help:"Be an application: fetch each second, keep an ssh session and a download; a line a second."`
	Stay     stayCmd     `cmd:"" help:"Do nothing until told to end."`
	Healthy  healthyCmd  `cmd:"" help:"Health check of a container."`
	Hand     handCmd     `cmd:"" hidden:"" help:"Serve make compose-demo on standard input and output (net/rpc)."`
}

// say logs a line.
func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

type routerCmd struct {
	Gateway  []netip.Prefix        `required:"" sep:"none" placeholder:"ADDRESS/LENGTH" help:"An address that it takes, in one of its networks; may be repeated."`
	Services netip.Prefix          `required:"" placeholder:"PREFIX" help:"The network that the proxies have their addresses in."`
	Proxy    []netip.Addr          `required:"" sep:"none" placeholder:"ADDRESS" help:"A proxy's; may be repeated."`
	Nobody   netip.Addr            `required:"" placeholder:"ADDRESS" help:"One of that network that nobody has and that stands for the rest."`
	Back     map[string]netip.Addr `placeholder:"PREFIX=ADDRESS" help:"A range that belongs behind a neighbour."`
}

func (c *routerCmd) Run(ctx context.Context) error {
	r := container.Router{Gateways: c.Gateway, Services: c.Services.Masked(), Hosts: c.Proxy, Nobody: c.Nobody, Back: map[netip.Prefix]netip.Addr{}}
	for to, via := range c.Back {
		p, err := netip.ParsePrefix(to)
		if err != nil {
			return fmt.Errorf("--back %s: %w", to, err)
		}
		r.Back[p] = via
	}
	return r.Run(ctx, say)
}

type onlyCmd struct{}

func (onlyCmd) Run(ctx context.Context) error { return container.Origin(ctx) }

type siteCmd struct{}

func (siteCmd) Run(ctx context.Context) error { return container.Site(ctx) }

type operatorCmd struct {
	Role    string   `required:"" enum:"edge,agent" help:"edge or agent: for whom the tokens are."`
	State   string   `default:"/state/proxyd" placeholder:"DIR" help:"State of the signing node (default ${default})."`
	Tokens  string   `required:"" placeholder:"DIR" help:"Where the tokens go."`
	Anchors []string `placeholder:"NAME" help:"Names that are anchors."`
	Names   []string `arg:"" help:"Who gets one."`
}

func (c *operatorCmd) Run(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o := container.Operator{
		Proxyd: filepath.Join(filepath.Dir(self), "proxyd"), State: c.State, Dir: c.Tokens,
		Role: c.Role, Names: append(c.Names, c.Anchors...), Anchor: c.Anchors,
	}
	return o.Run(ctx, say)
}

type visitCmd struct {
	At netip.Addr `arg:"" help:"Address of the server."`
}

func (c *visitCmd) Run(ctx context.Context) error { return container.Visit(ctx, c.At, say) }

type stayCmd struct{}

func (stayCmd) Run(ctx context.Context) error {
	if err := container.Ready(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

type healthyCmd struct{}

func (healthyCmd) Run(ctx context.Context) error { return container.Healthy(ctx) }

type handCmd struct{}

func (handCmd) Run(ctx context.Context) error {
	return container.ServeHand(ctx, standard{os.Stdin, os.Stdout})
}

// sshCmd is an ssh of the demo.
type sshCmd struct {
	At string `arg:"" help:"ADDRESS or ADDRESS:PORT."`
}

func (c *sshCmd) Run(ctx context.Context) error {
	at, err := netip.ParseAddrPort(c.At)
	if a, aerr := netip.ParseAddr(c.At); aerr == nil {
		at, err = netip.AddrPortFrom(a, lab.SSHPort), nil
	}
	if err != nil {
		return fmt.Errorf("%q: write ADDRESS or ADDRESS:PORT, such as %s: %w", c.At, lab.P1.V4, err)
	}
	return container.SSH(ctx, at, os.Stdin, os.Stdout)
}
