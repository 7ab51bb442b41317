package proxyd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"migrationsensor/detect"
	"migrationsensor/proxyd/synchecker"
)

// counter counts one more SYN each millisecond, and its interface is gone for a while.
type counter struct {
	began      time.Time
	gone, back time.Duration
	reads      int
}

func (c *counter) Read() (n detect.Counts, err error) {
	c.reads++
	at := time.Since(c.began)
	n[detect.SYN] = uint64(at.Milliseconds())
	if at >= c.gone && at < c.back {
		err = fmt.Errorf("count packets at edge0: %w", detect.ErrGone)
	}
	return n, err
}

func (*counter) Close() error { return nil }

// detectFor runs the detector's part of an edge alone, and returns what it logged.
func detectFor(t *testing.T, d time.Duration, c *counter, threshold float64) (log string, e *edge) {
	var out bytes.Buffer
	c.began = time.Now()
	e = &edge{
		log: slog.New(slog.NewTextHandler(&out, nil)), host: kernel{}, counter: c, port: new(movingPort), wake: make(chan struct{}, 1),
		detector: detect.New(detect.Config{Threshold: [detect.Kinds]float64{detect.SYN: threshold}, Quiet: time.Second}),
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := e.detect(ctx); err != nil {
		t.Error(err)
	}
	return out.String(), e
}

func TestInterfaceGoneIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, e := detectFor(t, 10*time.Second, &counter{gone: 2 * time.Second, back: 5 * time.Second}, 2000)
		for _, said := range []string{"interface gone", "interface back"} {
			if n := strings.Count(log, said); n != 1 {
				t.Errorf("said %q %d times, want once:\n%s", said, n, log)
			}
		}
		if r := e.verdict.Load().Rates[detect.SYN]; r != 1000 {
			t.Errorf("the rate at the end is %v, want 1000", r)
		}
	})
}

// The paper's second passes ten times as finely: an alarm comes a step after the packets, and wakes the loop.
func TestAlarmWithinTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counter{}
		began := time.Now()
		log, e := detectFor(t, 3050*time.Millisecond, c, 250)
		v := e.verdict.Load()
		if found := v.Since.Sub(began); !v.Attack || found != 300*time.Millisecond {
			t.Errorf("250 of 1000 packets/s: attack %v after %s, want one after 300ms", v.Attack, found)
		}
		if c.reads != 31 || v.Rate != 1000 || strings.Count(log, "attack detected") != 1 || len(e.wake) != 1 {
			t.Errorf("%d reads in 3 s, rate %v, loop woken %d times, log:\n%s", c.reads, v.Rate, len(e.wake), log)
		}
	})
}

// A loop that was busy for long rests no longer than a second, and an alarm ends that.
func TestAlarmEndsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &edge{log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), alarm: make(chan struct{}, 1)}
		began := time.Now()
		e.rest(t.Context(), time.Minute)
		if took := time.Since(began); took != maxRest {
			t.Errorf("rested for %v, want %v", took, maxRest)
		}
		time.AfterFunc(100*time.Millisecond, func() { e.observe(detect.Verdict{Attack: true, Changed: true}) })
		began = time.Now()
		e.rest(t.Context(), time.Minute)
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("rested for %v, and the alarm came after 100ms", took)
		}
	})
}

// A stop that comes just as an attack is found is a stop: the SYN Checker, gone first, can't be switched any more.
func TestStopAsTheAttackIsFound(t *testing.T) {
	w := newWorld(t)
	e := w.nodes["p1"].edge
	w.nodes["p1"].Stop()
	w.stopped("p1")
	w.eventually("its port is closed", func() bool { return errors.Is(e.port.Arm(synchecker.Off), net.ErrClosed) })
	e.verdict.Store(&detect.Verdict{Attack: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.loop(ctx); err != nil || e.state() != Defending {
		t.Errorf("state %s, %v; want defending, and no error", e.state(), err)
	}
	if err := e.act(t.Context(), actDefend); err == nil {
		t.Error("a SYN Checker that is gone while the node runs on was not an error")
	}
}
