package hostnet

import (
	"os"
	"path/filepath"
	"testing"
)

// TestStrictIsTheHigherOfTwo: the kernel takes the higher value of all interfaces' and the interface's own; 2 is loose.
func TestStrictIsTheHigherOfTwo(t *testing.T) {
	for _, tt := range []struct {
		all, own string
		strict   bool
	}{{"0", "0", false}, {"1", "0", true}, {"0", "1", true}, {"2", "1", false}, {"1", "2", false}} {
		dir := t.TempDir()
		for name, value := range map[string]string{"all": tt.all, "ms0": tt.own} {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name, "rp_filter"), []byte(value+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := strict(dir, "ms0"); got != tt.strict {
			t.Errorf("all %s, own %s: strict %v", tt.all, tt.own, got)
		}
	}
	if strict(t.TempDir(), "ms0") {
		t.Error("no settings to read are taken for strict")
	}
}
