package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"migrationsensor/agent"
)

// TestMain lets a test run this program itself, as detach does.
func TestMain(m *testing.M) {
	if os.Getenv("MS_AGENT_TEST_MAIN") != "" || os.Getenv(readyEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func runCLI(t *testing.T, stdin string, args ...string) (out, errs string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	err = run(t.Context(), args, strings.NewReader(stdin), &o, &e)
	return o.String(), e.String(), err
}

func writeConfig(t *testing.T, body string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "a.toml")
	body = strings.ReplaceAll(body, "DIR", filepath.ToSlash(dir))
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const plainConfig = "state = \"DIR/s\"\nsocket = \"DIR/a.sock\"\nno_tun = true\n"

func TestCommandLine(t *testing.T) {
	cfg := writeConfig(t, plainConfig)
	for _, tt := range []struct {
		rule  string
		stdin string
		args  []string
		want  string // in the error
	}{
		{"unknown command", "", []string{"upp"}, "unexpected argument upp"},
		{"unknown flag", "", []string{"up", "--tokn", "x"}, "unknown flag --tokn"},
		{"bad configuration", "", []string{"up", "--config", writeConfig(t, "probe = \"hot\"\n")}, ":1:1: probe: "},
		{"no configuration", "", []string{"up", "--config", "/nonexistent/a.toml"}, "/nonexistent/a.toml"},
		{"not joined yet", "", []string{"up", "--config", cfg}, "has not joined a fleet yet"},
		{"token file missing", "", []string{"up", "--config", cfg, "--token", "/nonexistent/token"}, "token: open"},
		{"no token on standard input", "hello\n", []string{"up", "--config", cfg, "--token", "-"}, "no line of it starts with ms://join/"},
		{"token cut off", "ms://join/abc\n", []string{"up", "--config", cfg, "--token", "-"}, "truncated"},
		{"a wait below nothing", "", []string{"up", "--config", cfg, "--join-wait=-1s"}, "--join-wait -1s"},
		{"status of nobody", "", []string{"status", "--config", cfg}, "no agent is running"},
		{"down of nobody", "", []string{"down", "--config", cfg}, "no agent is running"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			_, _, err := runCLI(t, tt.stdin, tt.args...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestVersionAndHelp(t *testing.T) {
	if out, _, err := runCLI(t, "", "--version"); err != nil || strings.TrimSpace(out) == "" {
		t.Errorf("--version: %q %v", out, err)
	}
	if out, _, err := runCLI(t, "", "--help"); err != nil || !strings.Contains(out, "ms-agent up --token") {
		t.Errorf("--help opens with an example: %q %v", out, err)
	}
}

func TestTokenInArgumentsIsSaidToBeVisible(t *testing.T) {
	cfg := writeConfig(t, plainConfig)
	_, errs, err := runCLI(t, "", "up", "--config", cfg, "--token", "ms://join/abc")
	if err == nil || !strings.Contains(errs, "can be seen by every user") || strings.Contains(errs+err.Error(), "abc") {
		t.Errorf("standard error %q, error %v: want one warning that does not repeat the token", errs, err)
	}
}

func TestDetachPassesTheReasonBack(t *testing.T) {
	cfg := writeConfig(t, plainConfig)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "up", "--config", cfg, "--detach")
	cmd.Env = append(os.Environ(), "MS_AGENT_TEST_MAIN=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "ms-agent: this machine has not joined a fleet yet") {
		t.Errorf("got %v %q, want the child's reason", err, out)
	}
}

func TestStatusTable(t *testing.T) {
	now := time.Now()
	var b bytes.Buffer
	st := agent.Status{
		State: "connected", Since: now.Add(-90 * time.Second), AgentID: "a1", Fleet: "f", Probe: "warm", Version: "v1",
		Edge:   &agent.EdgeStatus{Node: "n2", Addr: "198.18.3.3:7443", Since: now.Add(-time.Minute), RTTms: 15.25},
		Second: &agent.EdgeStatus{Name: "p2", Node: "n3", Addr: "198.18.4.4:7443", Since: now},
		Sessions: []agent.SessionStatus{
			{State: "live", Anchor: "a1", Edge: "p1", New: true, Own: true, Links: 2, Streams: 3, Epoch: 4, LastStallMs: 12.3},
			{State: "waiting", Anchor: "a2", Waiting: now.Add(-5 * time.Second), Streams: 1},
		},
		Links:     []agent.LinkStatus{{Kind: "data", Node: "n2", Addr: "198.18.3.3:7443", Since: now, Streams: 3}},
		Protected: []string{"198.18.1.1:443"}, Streams: 3,
		Counts: agent.Counts{Opened: 7, Moves: 1, Transfers: 2, Forged: 5},
		Eaten:  []agent.NetworkStatus{{Prefix: "198.18.7.0/24", Until: now}},
		Events: []agent.Event{{Time: now, What: "moved", Detail: "now at n2"}},
	}
	if err := printStatus(&b, st, now); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"connected for 1m30s", "(hidden)  node n2", "rtt 15.2 ms", "198.18.1.1:443", "7 opened", "1 migrations  2 transfers", "5 answers to this agent's dials", "moved: now at n2", "198.18.7.0/24 loses SYNs",
		"p2  node n3", "live  anchor a1  by way of p1  links 2  streams 3  epoch 4  last stall 12 ms", "sessions end at a1, the edge in use",
		"waiting  anchor a2  no link for 5s  links 0  streams 1  epoch 0  (ends with its streams)"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	cfg := writeConfig(t, plainConfig)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := agent.LoadConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := run(ctx, []string{"up", "--config", cfg}, strings.NewReader(""), new(bytes.Buffer), new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("got %v, want that an agent is running already", err)
	}
}
