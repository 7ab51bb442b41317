package live

import (
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"
)

type count int

func TestPicture(t *testing.T) {
	quit := false
	p := &picture[count]{draw: func(n count) string { return strings.Repeat("x", int(n)) }, quit: func() { quit = true }}
	p.Update(count(7))
	if got := p.View().Content; got != "xxxxxxx" {
		t.Errorf("got %q, want the last state drawn", got)
	}
	p.Update(tea.WindowSizeMsg{Width: 3})
	if got := p.View().Content; got != "xxx" {
		t.Errorf("got %q, want it cut to the terminal", got)
	}
	p.draw = func(count) string { return "a\nb\nc\nd" }
	p.Update(tea.WindowSizeMsg{Width: 3, Height: 2})
	if got := p.View().Content; got != "a\nb" {
		t.Errorf("got %q, want the top of it to stay", got)
	}
	p.Update(tea.KeyPressMsg{Code: 'a', Text: "a"})
	if quit {
		t.Error("a quits")
	}
	p.Update(tea.KeyPressMsg{Code: 'q', Text: "q"})
	if !quit {
		t.Error("q does not quit")
	}
}
