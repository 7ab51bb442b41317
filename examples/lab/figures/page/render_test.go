package page

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestWritesWholeFile writes the sample where a person can look at it: PAGE_OUT names the folder.
func TestWritesWholeFile(t *testing.T) {
	dir := os.Getenv("PAGE_OUT")
	if dir == "" {
		dir = t.TempDir()
	}
	name := filepath.Join(dir, "new", "paper.html")
	p := Paper(sample(), Fact{"Round trip", "15 ms"}, Fact{"Receive timeout", "15.8 ms"}, Fact{"Pre-filter", "24 SYN/s"})
	if err := p.Write(name); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := p.Render(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("the file is not what Render writes")
	}
	if _, err := os.Stat(name + ".new"); err == nil {
		t.Error("the half-written file stayed")
	}
}
