package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Operator does what a person does at the signing node, with proxyd's own commands, and only what was not done before.
type Operator struct {
	Proxyd string   // the program
	State  string   // the signing node's
	Dir    string   // where the tokens go, each in a file of its own
	Role   string   // edge or agent
	Names  []string // who gets one; for whom of an edge and of an anchor
	Anchor []string // those of Names that are anchors
}

// Run makes the fleet, if there is none, and the tokens that are missing.
//
// A token is made for its owner only (0600). Those who may read it are the group of the files' owner: in this demo the edges run
// as root without the right to read others' files, and belong to that group.
func (o Operator) Run(ctx context.Context, say func(string, ...any)) error {
	if _, err := os.Stat(o.State); errors.Is(err, os.ErrNotExist) {
		if err := o.proxyd(ctx, say, "init"); err != nil {
			return err
		}
	} else if err != nil {
		return fmt.Errorf("state of the signing node: %w", err)
	}
	for _, name := range o.Names {
		file := filepath.Join(o.Dir, name+".token")
		if _, err := os.Stat(file); err == nil {
			continue
		}
		args := []string{"token", "create", "--role", o.roleOf(name), "--out", file}
		if o.Role != "agent" {
			args = append(args, "--node", name)
		}
		if err := o.proxyd(ctx, say, args...); err != nil {
			return err
		}
		if err := os.Chmod(file, 0o640); err != nil {
			return err
		}
	}
	return nil
}

func (o Operator) roleOf(name string) string {
	if slices.Contains(o.Anchor, name) {
		return "anchor"
	}
	return o.Role
}

func (o Operator) proxyd(ctx context.Context, say func(string, ...any), args ...string) error {
	out, err := exec.CommandContext(ctx, o.Proxyd, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("proxyd %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	say("proxyd %s: %s", strings.Join(args, " "), strings.TrimSpace(string(out)))
	return nil
}
