package main

import (
	"context"
	"net/rpc"
	"os"
	"strings"

	"migrationsensor/examples/lab/edge"
	"migrationsensor/examples/lab/kernel"
)

type edgeCmd struct {
	Bin  string   `placeholder:"DIR" help:"Where proxyd and ms-agent are (default: beside ms-lab)."`
	Out  string   `default:"out" placeholder:"DIR" help:"Where figures and logs go (default ${default})."`
	Only []string `enum:"backlog,syncookies,synproxy,haproxy,ms" placeholder:"SYSTEM" help:"Measure these systems only: backlog, syncookies, synproxy, haproxy, ms."`
}

func (c *edgeCmd) Run(ctx context.Context) error {
	if err := kernel.Enter(); err != nil {
		return err
	}
	o := edge.Options{Bin: c.Bin, Out: c.Out, Only: c.Only, Command: "make bench-edge"}
	if os.Getenv("BENCH") == "quick" {
		o.Quick, o.Command = true, "BENCH=quick "+o.Command
	}
	if len(os.Args) > 2 { // other flags than make's: how it was started, word by word
		o.Command = strings.Join(append([]string{"ms-lab"}, os.Args[1:]...), " ")
	}
	return edge.Run(ctx, o, os.Stdout)
}

type visitorCmd struct{}

// Run serves until the one who started it closes standard input.
func (visitorCmd) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := rpc.NewServer()
	if err := s.Register(edge.NewVisitor(ctx)); err != nil {
		return err
	}
	s.ServeConn(standard{os.Stdin, os.Stdout})
	return nil
}
