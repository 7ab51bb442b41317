package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/term"

	"migrationsensor/examples/lab/figures"
)

// newRun is a run in a world, which is named for the figures and told to people.
func newRun(o *Options, name, where string) *run {
	r := &run{opts: o, board: newBoard(), where: name}
	r.board.where, r.board.kinds = where, o.kinds()
	for _, n := range nodes() {
		r.board.proxies = append(r.board.proxies, &proxyView{Name: n.Name, Kind: n.Kind})
	}
	return r
}

// show plays: on a terminal with a live screen, elsewhere with a line a second.
func (r *run) show(ctx context.Context, out *os.File) error {
	show := lines
	if term.IsTerminal(int(out.Fd())) {
		show = screen
	}
	return r.conclude(out, show(ctx, out, r.board, r.play))
}

// conclude writes the figures, also of a run that did not come to its end.
func (r *run) conclude(out io.Writer, played error) error {
	file := r.report()
	pass := file.Decide(played == nil)
	name := filepath.Join(r.opts.Out, cmp.Or(r.opts.name, "demo")+".json")
	if err := file.Write(name); err != nil {
		return errors.Join(played, err)
	}
	if r.clients != nil {
		fmt.Fprintln(out)
		if err := table(out, file, r.board); err != nil {
			return errors.Join(played, err)
		}
	}
	fmt.Fprintf(out, "\n%s\nfigures: %s   %s\n", summary(file, played), name, r.logs)
	switch {
	case played != nil:
		return fmt.Errorf("the demo stopped: %w", played)
	case pass:
		return nil
	case onlySlow(file):
		return figures.ErrSlow
	}
	return ErrFailed
}

// onlySlow reports whether no goal was missed but such of time, by something that did happen.
func onlySlow(file *figures.File) bool {
	for _, f := range file.Figures {
		if f.Meets != nil && !*f.Meets && (f.Unit != "ms" || f.Value == nil || f.Goal == goesOn) {
			return false
		}
	}
	return true
}
