package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/term"

	"migrationsensor/examples/lab/fleet"
)

// Run plays the scenario inside kernel.Enter's sandbox: on a terminal with a live screen, elsewhere
// with a line a second. It writes out/demo.json and prints the table; nil means PASS.
func Run(ctx context.Context, o Options, out *os.File) error {
	if err := o.Check(); err != nil {
		return err
	}
	r := &run{opts: &o, board: newBoard(), marks: map[string]*mark{}}
	for _, n := range fleet.DefaultNodes() {
		r.board.proxies = append(r.board.proxies, &proxyView{Name: n.Name, Kind: n.Kind})
	}
	show := lines
	if term.IsTerminal(int(out.Fd())) {
		show = screen
	}
	err := show(ctx, out, r.board, r.play)
	return r.conclude(out, err)
}

// conclude writes the figures, also of a run that did not come to its end.
func (r *run) conclude(out io.Writer, played error) error {
	file := r.report()
	pass := file.Decide(played == nil)
	name := filepath.Join(r.opts.Out, "demo.json")
	if err := file.Write(name); err != nil {
		return errors.Join(played, err)
	}
	if r.clients != nil {
		fmt.Fprintln(out)
		if err := table(out, file, r.board.clients); err != nil {
			return errors.Join(played, err)
		}
	}
	fmt.Fprintf(out, "\n%s\nfigures: %s   logs: %s\n", summary(file, played), name, filepath.Join(r.opts.Out, "demo-logs"))
	switch {
	case played != nil:
		return fmt.Errorf("the demo stopped: %w", played)
	case !pass:
		return ErrFailed
	}
	return nil
}
