package figures

import (
	"errors"
	"testing"
	"time"
)

func TestJudgeTellsWrongFromSlow(t *testing.T) {
	late := Times("stall", "ms", "", []time.Duration{time.Second}).AtMost(10)
	lost := Count("bytes.lost", "ms", "", 1, 100).AtMost(0)
	fine := Count("bytes.lost", "ms", "", 0, 100).AtMost(0)
	for _, c := range []struct {
		rule     string
		figures  []Figure
		complete bool
		want     error
	}{
		{"all is met", []Figure{fine}, true, nil},
		{"only late", []Figure{fine, late}, true, ErrSlow},
		{"late and wrong", []Figure{lost, late}, true, ErrWrong},
		{"not to its end", []Figure{fine}, false, ErrWrong},
	} {
		f := New("test", "kernel")
		f.Add(c.figures...)
		if got := Judge(f, c.complete, "ms"); !errors.Is(got, c.want) || (f.Verdict == "pass") != (c.want == nil) {
			t.Errorf("%s: got %v, verdict %s", c.rule, got, f.Verdict)
		}
	}
}
