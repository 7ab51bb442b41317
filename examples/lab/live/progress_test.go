package live

import (
	"strings"
	"testing"
	"time"
)

func TestProgress(t *testing.T) {
	p := NewProgress("a run", Part{Name: "first", Units: 2, Each: time.Second}, Part{Name: "second", Units: 4, Each: 2 * time.Second})
	p.Enter("Table %d", 3)
	if x := p.at(p.began); x.share != 0 || x.left != 10*time.Second || x.now != "Table 3" {
		t.Errorf("at the start: %+v", x)
	}
	p.Finish("first")
	p.Did("second")
	half := p.at(p.began.Add(4 * time.Second))
	if half.share != 0.4 || half.left != 6*time.Second {
		t.Errorf("4 of 10 s are done: %+v", half)
	}
	if slow := p.at(p.began.Add(100 * time.Second)); slow.left <= half.left {
		t.Error("a run that was slow so far has no more time left than a fast one")
	}
	for range 9 {
		p.Did("second")
	}
	if end := p.at(p.began.Add(20 * time.Second)); end.share != 1 || end.left != 0 || end.bar(4) != "████" {
		t.Errorf("at the end: %+v", end)
	}
}

func TestLinesTellAllThatWasSaid(t *testing.T) {
	p := NewProgress("a run", Part{Name: "all", Units: 1, Each: time.Second})
	var out strings.Builder
	told := 0
	p.Say("one")
	tell(&out, p.at(p.began), &told)
	p.Say("two")
	tell(&out, p.at(p.began), &told)
	if got, want := out.String(), "• one\n• two\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
