package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"migrationsensor/examples/lab/fleet"
)

// lines shows the run where there is no terminal: what happens, and a line of figures each second.
func lines(ctx context.Context, out *os.File, b *board, play func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- play(ctx) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	told := 0
	for {
		select {
		case err := <-done:
			tellEvents(out, b.snapshot(), &told)
			return err
		case <-tick.C:
			s := b.snapshot()
			tellEvents(out, s, &told)
			if len(s.Clients) > 0 && s.Phase != phaseStart {
				fmt.Fprintln(out, figuresLine(s))
			}
		}
	}
}

func tellEvents(out io.Writer, s snapshot, told *int) {
	for _, e := range s.Events[*told:] {
		fmt.Fprintf(out, "[%5.1fs] • %s\n", e.At.Sub(s.Began).Seconds(), e.Text)
	}
	*told = len(s.Events)
}

func figuresLine(s snapshot) string {
	var l strings.Builder
	fmt.Fprintf(&l, "[%5.1fs] %-7s", s.At.Sub(s.Began).Seconds(), s.Phase)
	for _, p := range s.Proxies {
		if !p.Up {
			fmt.Fprintf(&l, "  %s does not answer", p.Name)
			continue
		}
		if p.Kind == fleet.Anchor {
			continue
		}
		fmt.Fprintf(&l, "  %s %s %.0f/s", p.Name, p.State, p.Rates["all"])
	}
	for _, c := range s.Clients {
		if c.OK+c.Failed == 0 {
			continue
		}
		fmt.Fprintf(&l, "  │ %s %d/%d", c.Name, c.OK, c.OK+c.Failed)
		if c.OK > 0 {
			fmt.Fprintf(&l, " %.1f ms", c.Connect.Seconds()*1000)
		}
		if c.ServedBy != "" {
			fmt.Fprintf(&l, " via %s", c.ServedBy)
		}
	}
	for _, x := range s.Lasting {
		if at, ok := x.Stalls[kindOf(s.Phase)]; ok {
			fmt.Fprintf(&l, "  │ %s stall %.0f ms", x.Name, at.Seconds()*1000)
		}
	}
	return l.String()
}
