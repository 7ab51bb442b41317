// Command proxyd is the edge side of Migration Sensor: the proxies P1, P2, … of the paper, and the
// signing node that makes them one fleet. `proxyd --help` shows its commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"migrationsensor/proxyd"
)

func main() {
	if runtime.GOOS != "linux" {
		fmt.Fprintln(os.Stderr, "proxyd: runs on Linux only: it needs packet sockets and nftables; ms-agent runs here too")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "proxyd:", err)
		os.Exit(1)
	}
}

const help = `Example: a fleet of a signing node and an edge

  sign# proxyd init                                        makes the fleet that proxyd.toml declares
  sign# proxyd run &
  sign# proxyd token create --role edge --node p1 --out p1.token
  p1#   proxyd join --as p1 p1.token                       a file copied from the signing node
  p1#   proxyd run
  sign# proxyd token create --role agent --out me.token    for ms-agent up --token me.token

Before maintenance of an edge, and after it

  p1#   proxyd drain                                       its agents move and keep their connections
  p1#   proxyd down                                        (this sends on who is left, too)
  p1#   proxyd run
  p2#   proxyd home                                        its agents go back to the entries
`

// cli is the command line.
type cli struct {
	Config  string           `help:"Configuration file." short:"c" placeholder:"FILE" default:""`
	Version kong.VersionFlag `help:"Print the version and stop."`

	Init  initCmd `cmd:"" help:"Make a new fleet; this machine becomes its signing node."`
	Token struct {
		Create tokenCmd `cmd:"" help:"Make a token with which an agent, an edge or an anchor joins."`
	} `cmd:"" help:"Tokens (on the signing node)."`
	Join    joinCmd    `cmd:"" help:"Join a fleet as one of its declared nodes."`
	Run     runCmd     `cmd:"" help:"Serve, until SIGTERM or proxyd down."`
	Status  statusCmd  `cmd:"" help:"Show state, since when, why, rates, counts and peers."`
	Agents  agentsCmd  `cmd:"" help:"List the agents that are connected here."`
	Drain   drainCmd   `cmd:"" help:"Send every agent elsewhere, and whoever comes, until --undo."`
	Migrate migrateCmd `cmd:"" help:"Send agents that are connected now elsewhere."`
	Home    homeCmd    `cmd:"" help:"Send the agents here back to the entries that are not attacked."`
	Down    downCmd    `cmd:"" help:"Stop the proxyd that runs here: its agents are sent on first; again: at once."`
	Check   checkCmd   `cmd:"" aliases:"doctor" help:"Check the configuration and whether this machine can run it."`

	Firewall struct {
		Plan planCmd `cmd:"" help:"Print the packet filter that run puts in place, as nft reads it."`
	} `cmd:"" help:"The packet filter."`
}

// env is what the commands have of the process.
type env struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
	cli            *cli
}

// config loads the configuration that --config names.
func (e *env) config() (proxyd.Config, error) { return proxyd.LoadConfig(e.cli.Config) }

// errFlags marks a command line that kong refused.
var errFlags = errors.New("see proxyd --help")

// run is proxyd without its process: the tests call it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	var c cli
	done := false // kong printed help or version
	parser, err := kong.New(&c,
		kong.Name("proxyd"),
		kong.Description("Keeps services reachable while one of their proxies is flooded (edge side)."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { done = true }),
		kong.Vars{"version": version()},
		kong.Help(func(o kong.HelpOptions, k *kong.Context) error {
			if k.Selected() == nil {
				fmt.Fprint(stdout, help, "\n")
			} else if h, ok := k.Selected().Target.Addr().Interface().(interface{ Example() string }); ok {
				fmt.Fprintf(stdout, "Example:\n%s\n", h.Example())
			}
			return kong.DefaultHelpPrinter(o, k)
		}),
	)
	if err != nil {
		return fmt.Errorf("command line: %w", err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, err := parser.Parse(args)
	switch {
	case done:
		return nil
	case err != nil:
		return fmt.Errorf("%w (%w)", err, errFlags)
	}
	return k.Run(&env{ctx, stdin, stdout, stderr, &c})
}

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	if v == "" {
		v = "unknown"
	}
	return v + " " + info.GoVersion
}

// logger writes for people on a terminal, else JSON.
func logger(w io.Writer, level slog.Level) *slog.Logger {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: "15:04:05.000"}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}
