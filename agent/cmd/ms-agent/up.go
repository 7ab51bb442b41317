package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"migrationsensor/agent"
)

// maxToken bounds what is read as a token.
const maxToken = 64 << 10

type upCmd struct {
	Config    string        `default:"${config}" placeholder:"FILE" help:"Configuration (default ${config})."`
	Token     string        `placeholder:"FILE|-" help:"Enrol with the token in FILE, or from standard input. Needed the first time only."`
	JoinWait  time.Duration `default:"0s" placeholder:"TIME" help:"With --token: how long joining is tried again while no entry answers, for machines that start together with their fleet."`
	Detach    bool          `help:"Return when the agent is ready; it goes on in the background."`
	JSONLog   bool          `name:"json-log" help:"Log as JSON, as --log-format=json."`
	LogFormat string        `enum:"auto,text,json," default:"" placeholder:"FORMAT" help:"auto, text or json."`
	LogFile   string        `placeholder:"FILE" help:"Append the log to FILE instead of standard error."`
}

func (c *upCmd) Run(ctx context.Context, s *stdio) error {
	cfg, err := agent.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	if cfg.Token, err = readToken(c.Token, s); err != nil {
		return err
	}
	if c.JoinWait < 0 {
		return fmt.Errorf("--join-wait %v: it can't be less than nothing", c.JoinWait)
	}
	cfg.JoinWait = c.JoinWait
	if c.JSONLog {
		c.LogFormat = "json"
	}
	cfg.LogFormat = cmp.Or(c.LogFormat, cfg.LogFormat)
	ready := inheritedReady()
	if c.Detach && ready == nil {
		return detach(ctx, cfg, c, s.out)
	}
	errw := s.err
	if c.LogFile != "" {
		f, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("log file: %w", err)
		}
		defer f.Close()
		errw = f
	}
	return runAgent(ctx, cfg, newLog(cfg, errw), ready)
}

// runAgent runs until ctx is done or the agent fails, and says on ready (may be nil) what became of the start.
func runAgent(ctx context.Context, cfg agent.Config, log *slog.Logger, ready io.WriteCloser) error {
	report := func(line string) {
		if ready != nil {
			fmt.Fprintln(ready, line)
			ready.Close()
			ready = nil
		}
	}
	a, err := agent.New(cfg, agent.System{Log: log, Version: version()})
	if err != nil {
		report(failedPrefix + err.Error())
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	select {
	case <-a.Ready():
		report(readyPrefix + a.Summary())
		err = <-ended
	case err = <-ended:
		if err != nil {
			report(failedPrefix + err.Error())
		} else {
			report(failedPrefix + "stopped before it was ready")
		}
	}
	return err
}

// newLog logs for people on a terminal, else as JSON.
func newLog(cfg agent.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if level.UnmarshalText([]byte(cfg.LogLevel)) != nil {
		level = slog.LevelInfo
	}
	f, ok := w.(*os.File)
	tty := ok && term.IsTerminal(int(f.Fd()))
	if cfg.LogFormat == "json" || cfg.LogFormat == "auto" && !tty {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: !tty}))
}

// readToken reads a token from a file, from standard input, or takes it from the command line with a warning.
func readToken(arg string, s *stdio) (string, error) {
	var r io.Reader
	switch {
	case arg == "":
		return "", nil
	case strings.HasPrefix(arg, "ms://"):
		fmt.Fprintln(s.err, "ms-agent: a token on the command line can be seen by every user of this machine (ps) and stays in the shell's history; --token FILE or --token - hides it")
		return arg, nil
	case arg == "-":
		if f, ok := s.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			fmt.Fprint(s.err, "token: ")
			b, err := term.ReadPassword(int(f.Fd()))
			fmt.Fprintln(s.err)
			return strings.TrimSpace(string(b)), err
		}
		r = s.in
	default:
		f, err := os.Open(arg)
		if err != nil {
			return "", fmt.Errorf("token: %w", err)
		}
		defer f.Close()
		r = f
	}
	return tokenIn(r)
}

// tokenIn finds the line with the token; what `proxyd token create` prints around it is skipped.
func tokenIn(r io.Reader) (string, error) {
	sc := bufio.NewScanner(io.LimitReader(r, maxToken))
	sc.Buffer(nil, maxToken)
	for sc.Scan() {
		if line := strings.TrimSpace(sc.Text()); strings.HasPrefix(line, "ms://") {
			return line, nil
		}
	}
	if err := sc.Err(); err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return "", errors.New("no line of it starts with ms://join/: this is not what `proxyd token create` wrote")
}
