package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeProxyd is a proxyd that notes what it was asked, and makes what that makes.
func fakeProxyd(t *testing.T, dir string) (program, asked string) {
	t.Helper()
	program, asked = filepath.Join(dir, "proxyd"), filepath.Join(dir, "asked")
	script := fmt.Sprintf(`#!/bin/sh
echo "$*" >>%[1]s
case $1 in
init) mkdir %[2]s ;;
token) while [ "$1" != --out ]; do shift; done; umask 077; echo ms://join/x >"$2" ;;
*) exit 1 ;;
esac
`, asked, filepath.Join(dir, "state"))
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return program, asked
}

// TestOperatorMakesWhatIsMissing: it may run each time that the containers start.
func TestOperatorMakesWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	program, asked := fakeProxyd(t, dir)
	o := Operator{Proxyd: program, State: filepath.Join(dir, "state"), Dir: dir, Role: "edge", Names: []string{"p1", "a1"}, Anchor: []string{"a1"}}
	run := func(want ...string) {
		t.Helper()
		if err := os.RemoveAll(asked); err != nil {
			t.Fatal(err)
		}
		if err := o.Run(t.Context(), t.Logf); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(asked)
		if err != nil && len(want) > 0 {
			t.Fatal(err)
		}
		if text := strings.TrimSpace(string(got)); text != strings.Join(want, "\n") {
			t.Errorf("asked for\n%s\nwant\n%s", text, strings.Join(want, "\n"))
		}
	}
	p1, a1 := filepath.Join(dir, "p1.token"), filepath.Join(dir, "a1.token")
	run("init", "token create --role edge --out "+p1+" --node p1", "token create --role anchor --out "+a1+" --node a1")
	for _, file := range []string{p1, a1} {
		if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v, %v: want it for owner and group", file, fi, err)
		}
	}
	run()
	if err := os.Remove(p1); err != nil {
		t.Fatal(err)
	}
	run("token create --role edge --out " + p1 + " --node p1")
	o.Role, o.Names, o.Anchor = "agent", []string{"client"}, nil
	run("token create --role agent --out " + filepath.Join(dir, "client.token"))

	o.Names, o.Proxyd = []string{"other"}, filepath.Join(dir, "nosuch")
	if err := o.Run(t.Context(), t.Logf); err == nil || !strings.Contains(err.Error(), "token create") {
		t.Errorf("without proxyd: %v", err)
	}
}
