package main

import (
	"io"
	"strings"
	"testing"
)

func TestEdgeRefusesWhatItDoesNotKnow(t *testing.T) {
	for line, want := range map[string]string{
		"edge --only nginx":   "--only must be one of",
		"edge --rate 5":       "unknown flag --rate",
		"edge now":            "unexpected argument now",
		"visitor --as nobody": "unknown flag --as",
	} {
		if err := run(t.Context(), strings.Fields(line), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
	var help strings.Builder
	if err := run(t.Context(), []string{"edge", "--help"}, &help, io.Discard); err != nil || !strings.Contains(help.String(), "--only") {
		t.Errorf("%v: %s", err, help.String())
	}
}
