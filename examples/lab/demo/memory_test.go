package demo

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"migrationsensor/examples/lab/figures"
	"migrationsensor/examples/lab/flood"
)

// TestDemoInMemory plays a short one to its PASS. It needs no right, so it never skips.
func TestDemoInMemory(t *testing.T) {
	dir := t.TempDir()
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	o := Options{
		Out: dir, RTT: 5 * time.Millisecond, Peace: time.Second, Flood: 3 * time.Second, After: time.Second, Kind: flood.SYN,
		Rate: 2000, Attacker: "own", Quiet: time.Second, Suspend: 5 * time.Second, Command: "go test",
	}
	if err := RunMemory(t.Context(), o, "a test asks for it", out); err != nil {
		text, _ := os.ReadFile(out.Name())
		t.Fatalf("%v\n%s", err, text)
	}
	b, err := os.ReadFile(filepath.Join(dir, "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f figures.File
	if err := json.Unmarshal(b, &f); err != nil || f.Host.World != "memory" || f.Verdict != "pass" {
		t.Errorf("demo.json: %v, world %q, verdict %q", err, f.Host.World, f.Verdict)
	}
}
