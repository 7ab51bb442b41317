package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"migrationsensor/examples/lab/paper"
)

func TestPaperProxyFlags(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(strings.Repeat("0f", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, ok := range map[string]bool{
		"--role plain --forward 198.18.72.11:80=198.18.80.30:8080 --forward 198.18.72.11:22=198.18.80.30:22":                                true,
		"--role p2 --forward 198.18.72.93:80=198.18.80.30:8080 --ratify 198.18.80.12:7450":                                                  true,
		"--role checker --for 198.18.72.11 --ports 80,22 --p2 198.18.72.93 --ratify 198.18.80.12:7450 --p 0.5 --filter 0 --key-file " + key: true,
		"--role p2 --forward 198.18.72.93:80=198.18.80.30:8080":                                                                             false,
		"--role plain --forward 198.18.72.11:80":                                                                                            false,
		"--role checker --for 198.18.72.11 --ports 80 --p2 198.18.72.93 --ratify 198.18.80.12:7450":                                         false,
		"--role checker --for P1 --ports 80 --p2 198.18.72.93 --ratify 198.18.80.12:7450 --key-file " + key:                                 false,
		"--role checker --for 198.18.72.11 --ports 80 --p2 198.18.72.93 --ratify 198.18.80.12 --key-file " + key:                            false,
	} {
		cfg, err := parsePaperProxy(t, line)
		if err == nil {
			err = cfg.Check()
		}
		if (err == nil) != ok {
			t.Errorf("%s: got %v", line, err)
		}
		if err == nil && cfg.Role == paper.Checker && (cfg.P != 0.5 || cfg.Assumed.PreFilter != 0 || len(cfg.Ports) != 2 || cfg.Toward != netip.MustParseAddr("198.18.0.1")) {
			t.Errorf("%s: read as %+v", line, cfg)
		}
		if err == nil && cfg.Role == paper.Plain && len(cfg.Forwards) != 2 {
			t.Errorf("%s: read as %+v", line, cfg)
		}
	}
}

func parsePaperProxy(t *testing.T, line string) (paper.Config, error) {
	t.Helper()
	var c paperProxyCmd
	p, err := kong.New(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Parse(strings.Fields(line)); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return c.config()
}
