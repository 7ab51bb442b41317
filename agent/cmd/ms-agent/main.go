// Command ms-agent connects this machine's applications to protected services through the proxies of a Migration
// Sensor fleet: it is the paper's client (section 3.1).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"migrationsensor/agent"
	"migrationsensor/agent/hostnet"
)

func main() {
	if hostnet.JanitorMain() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "ms-agent:", err)
		os.Exit(1)
	}
}

type cli struct {
	Up      upCmd            `cmd:"" help:"Connect, and stay connected until stopped."`
	Status  statusCmd        `cmd:"" help:"Show state, edge, protected addresses, counts and events of the running agent."`
	Forget  forgetCmd        `cmd:"" help:"Forget the proxy that this agent was sent to, and begin again at the fleet's entries."`
	Down    downCmd          `cmd:"" help:"Stop the running agent and undo what it did to this machine."`
	Version kong.VersionFlag `help:"Print the version and exit."`
}

const description = `Connects this machine's applications to protected services.

Example:
  ms-agent up --token token.txt   # the first time, with the file of "proxyd token create"
  ms-agent up --detach            # later: the enrolment is kept
  ms-agent status`

// stdio is where a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) error {
	var c cli
	exited := false
	p, err := kong.New(&c,
		kong.Name("ms-agent"), kong.Description(description), kong.Vars{"version": version(), "config": agent.DefaultConfigFile},
		kong.Writers(out, errw), kong.Exit(func(int) { exited = true }), kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return err
	}
	k, err := p.Parse(args)
	if exited { // --help or --version has been answered
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w (`ms-agent --help` lists what there is)", err)
	}
	k.BindTo(ctx, (*context.Context)(nil))
	return k.Run(&stdio{in, out, errw})
}

// version is the module's version, and the commit it was built from.
func version() string {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := bi.Main.Version
	for _, s := range bi.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value[:min(12, len(s.Value))]
		}
	}
	if v == "" {
		return "(devel)"
	}
	return v
}
