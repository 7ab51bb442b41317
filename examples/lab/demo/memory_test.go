package demo

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/flood"
)

// short are a test's options: every phase, none longer than it must be.
func short(dir string) Options {
	o := Options{
		Out: dir, RTT: 5 * time.Millisecond, Peace: time.Second, Flood: 3 * time.Second, Move: 500 * time.Millisecond, After: time.Second, Kind: flood.SYN,
		Rate: 2000, Attacker: "own", Quiet: time.Second, Suspend: 5 * time.Second, Command: "go test",
	}
	if underRace {
		o.Rate, o.light, o.Move, o.After = 500, true, 3*time.Second, 3*time.Second
	}
	return o
}

// played plays a short one to its PASS and looks at what it wrote and printed.
func played(t *testing.T, world string, play func(ctx context.Context, o Options, out *os.File) error) {
	t.Helper()
	dir := t.ArtifactDir()
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	err = play(t.Context(), short(dir), out)
	text, _ := os.ReadFile(out.Name())
	verdict := "pass"
	if errors.Is(err, figures.ErrSlow) { // a machine that does much beside; what it says is complete and right
		t.Logf("%v\n%s", err, text)
		verdict, err = "fail", nil
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	b, err := os.ReadFile(filepath.Join(dir, "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f figures.File
	if err := json.Unmarshal(b, &f); err != nil || f.Host.World != world || f.Verdict != verdict {
		t.Errorf("demo.json: %v, world %q, verdict %q", err, f.Host.World, f.Verdict)
	}
	measured := map[string]bool{}
	for _, x := range f.Figures {
		if x.ID == "stall" && x.Value != nil {
			measured[x.Labels["app"]+" "+x.Labels["kind"]] = true
		}
	}
	apps := []string{"download"}
	if !strings.Contains(string(text), "no ssh session") {
		apps = append(apps, "ssh")
	}
	for _, app := range apps {
		for _, kind := range stallKinds {
			if !measured[app+" "+kind] {
				t.Errorf("demo.json has no stall of %s, %s", app, kind)
			}
		}
	}
	for _, want := range []string{"agent is served by p2", "which serves the ssh session, is killed", "is drained", "sends its clients back"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("nothing was said of %q", want)
		}
	}
	if !strings.Contains(string(text), "p1→p2") {
		t.Errorf("the table does not show the move from P1 to P2:\n%s", text)
	}
}

// TestDemoInMemory needs no right, so it never skips.
func TestDemoInMemory(t *testing.T) {
	played(t, "memory", func(ctx context.Context, o Options, out *os.File) error {
		return RunMemory(ctx, o, "a test asks for it", out)
	})
}
