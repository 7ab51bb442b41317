package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// faults are the ranges of numbers that FAULTS.md must name.
var faults = [][2]int{{1, 36}, {38, 48}, {51, 52}, {56, 62}, {64, 66}}

var (
	faultRow = regexp.MustCompile(`(?m)^\| F(\d+) \|.*$`)
	testName = regexp.MustCompile("`([a-z/]+)\\.(Test\\w+)`")
)

// TestFaultsAreTested holds the table of FAULTS.md against the source: every fault has tests, and they exist.
func TestFaultsAreTested(t *testing.T) {
	text, err := os.ReadFile("FAULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[int][][]string{}
	for _, row := range faultRow.FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.Atoi(row[1])
		if err != nil {
			t.Fatal(err)
		}
		rows[n] = testName.FindAllStringSubmatch(row[0], -1)
		if strings.Count(row[0], ".Test") != len(rows[n]) {
			t.Errorf("F%d: a test is not written as `package.TestName`", n)
		}
	}
	for _, r := range faults {
		for n := r[0]; n <= r[1]; n++ {
			if len(rows[n]) == 0 {
				t.Errorf("F%d has no test", n)
			}
		}
	}
	sources := map[string]string{} // by package
	for n, tests := range rows {
		for _, test := range tests {
			dir, name := test[1], test[2]
			if _, ok := sources[dir]; !ok {
				sources[dir] = testsOf(t, dir)
			}
			if !strings.Contains(sources[dir], "\nfunc "+name+"(t *testing.T)") {
				t.Errorf("F%d: %s has no %s", n, dir, name)
			}
		}
	}
}

// testsOf is the source of a package's tests.
func testsOf(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s, %v", dir, err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
