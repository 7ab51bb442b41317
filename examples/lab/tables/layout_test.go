package tables

import (
	"strings"
	"testing"
)

// printed is the text of a run.
func printed(t *testing.T, r *results, d *detected) string {
	t.Helper()
	f, complete := filed(options(true).sizes(), r, d)
	f.Decide(complete)
	var out strings.Builder
	if err := Print(&out, f, []string{"receive timeout: 18.75 ms"}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestTablesShowEveryCell(t *testing.T) {
	r, d := good(options(true).sizes())
	text := printed(t, r, d)
	for what, n := range map[string]int{
		"published, with ":          6,  // Tables 2 (2), 3 (2), 4 (2)
		"the paper's, re-created":   16, // Tables 3 and 4 with HTTP (6), Table 5 (2 × 5)
		"ours, probe = each":        17, // the same, and the summary of its shares
		"47.40     45.60     9.90":  1,  // the paper's own cell
		"+199.9 %":                  1,
		"2.4 %    2.2 %    1.3 %":   1,
		"receive timeout: 18.75 ms": 1,
		"not run":                   0,
		"✗":                         0,
	} {
		if got := strings.Count(text, what); got < n || n <= 1 && got != n {
			t.Errorf("%q stands there %d times, want %d", what, got, n)
		}
	}
	for i, line := range strings.Split(text, "\n") {
		if strings.Contains(line, "%!") {
			t.Errorf("line %d: %s", i, line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestTablesSayWhyACellIsMissing(t *testing.T) {
	s := options(true).sizes()
	r, d := good(s)
	for _, p := range s.plan() {
		if p.App == "ssh" || p.Attacker == "hping3" {
			delete(r.trials, p.cell)
			r.skip(p.cell, map[bool]string{true: "no ssh here", false: "no hping3 here"}[p.App == "ssh"])
		}
	}
	text := printed(t, r, d)
	if n := strings.Count(text, "not run: no ssh here"); n != 12 { // Table 4, and ours under the flood
		t.Errorf("%d rows say why there is no ssh, want 12", n)
	}
	if n := strings.Count(text, "not run: no hping3 here"); n != 20 {
		t.Errorf("%d rows say why there is no hping3, want 20:\n%s", n, text)
	}
	if strings.Contains(text, "✗") {
		t.Errorf("what was not run misses a goal:\n%s", text)
	}
}
