package app

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"
)

func TestTypistSeesEachLineInItsTurn(t *testing.T) {
	for _, c := range []struct {
		rule, screen string
		seen         int
		wrong        bool
	}{
		{"all", "welcome\r\nline 0\r\nline 1\r\nline 2\r\n", 3, false},
		{"one is missing", "line 0\r\nline 2\r\n", 1, true},
		{"one comes twice", "line 0\nline 0\nline 1\n", 2, true},
		{"one is cut", "line 0\nlin 1\nline 2\n", 1, true},
	} {
		y := NewTypist()
		if err := y.Watch(strings.NewReader(c.screen)); err != nil {
			t.Fatal(err)
		}
		if _, seen, wrong := y.Counts(); seen != c.seen || (wrong != "") != c.wrong {
			t.Errorf("%s: %d seen, %q", c.rule, seen, wrong)
		}
	}
}

func TestTypistTypesInARhythm(t *testing.T) {
	r, w := io.Pipe()
	y := NewTypist()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- y.Watch(io.TeeReader(r, &stopAfter{"line 3\n", cancel})) }()
	if _, err := io.WriteString(w, Ready+"\n"); err != nil {
		t.Fatal(err)
	}
	if err := y.Type(ctx, w, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if typed, seen, wrong := y.Counts(); typed < 4 || typed != seen || wrong != "" || y.Count() != seen {
		t.Errorf("%d typed, %d seen, %d noted, %q", typed, seen, y.Count(), wrong)
	}
}

type stopAfter struct {
	text string
	stop func()
}

func (s *stopAfter) Write(b []byte) (int, error) {
	if strings.Contains(string(b), s.text) {
		s.stop()
	}
	return len(b), nil
}
