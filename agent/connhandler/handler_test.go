package connhandler

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

type harness struct {
	*testing.T
	ways   *fakeWays
	h      *Handler
	direct func() (Conn, error)
	events []string
}

func newHarness(t *testing.T, mode Mode, fallback bool) *harness {
	hs := &harness{T: t, ways: new(fakeWays)}
	hs.h = New(Config{
		Mode: mode, Ways: hs.ways, Retries: 1,
		Service: func(a netip.AddrPort) (Service, bool) { return Service{"web", fallback}, a == dst },
		Direct:  func(context.Context, netip.AddrPort) (Conn, error) { return hs.direct() },
		Event:   func(what, _ string) { hs.events = append(hs.events, what) },
	})
	return hs
}

// answer runs one flow that ends with its verdict.
func (hs *harness) answer() string {
	f := newFlow(hs.T)
	hs.h.Handle(hs.Context(), f)
	return f.got()
}

func TestConnectTellsTheTruth(t *testing.T) {
	for _, tt := range []struct {
		rule   string
		err    error
		want   string
		counts Stats
	}{
		{"refused stays refused", ErrRefused, "refused", Stats{Refused: 1}},
		{"unreachable stays unreachable", ErrUnreachable, "unreachable", Stats{Failed: 1}},
		{"a timeout is the application's own", ErrTimedOut, "silence", Stats{TimedOut: 1}},
		{"busy: the application's retransmission asks again", ErrBusy, "silence", Stats{Failed: 1}},
		{"denied is refused", ErrDenied, "refused", Stats{Failed: 1}},
	} {
		for name, mode := range map[string]Mode{"warm": Warm, "each": Each} {
			t.Run(tt.rule+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hs := newHarness(t, mode, true) // a verdict never leads to the direct way
					s := &fakeSession{err: tt.err, delay: time.Millisecond}
					hs.ways.warm = s
					if got := hs.answer(); got != tt.want {
						t.Errorf("application got %q, want %q", got, tt.want)
					}
					if got := hs.h.Stats(); got != tt.counts {
						t.Errorf("counts %+v, want %+v", got, tt.counts)
					}
				})
			})
		}
	}
}

func TestFullSessionIsBusyAndNotGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Warm, false)
		s := &fakeSession{full: ErrBusy}
		hs.ways.warm, hs.ways.fresh = s, []Session{s, s, s, s}
		if got := hs.answer(); got != "silence" || s.opened() > 3 {
			t.Errorf("application got %q after %d OPENs, want silence: its retransmission asks again", got, s.opened())
		}
	})
}

// exchange opens a flow, sends a question, half-closes, and reads the answer up to its end.
func exchange(t *testing.T, hs *harness, s *fakeSession) {
	t.Helper()
	exchangeAfter(t, hs, s, s.delay)
}

// exchangeAfter is exchange where connect() takes that long.
func exchangeAfter(t *testing.T, hs *harness, s *fakeSession, took time.Duration) {
	t.Helper()
	f := newFlow(t)
	done := make(chan struct{})
	go func() { hs.h.Handle(t.Context(), f); close(done) }()
	synctest.Wait()
	time.Sleep(took)
	synctest.Wait()
	if f.got() != "accepted" {
		t.Fatalf("application got %q, want accepted", f.got())
	}
	io.WriteString(f.app, "question")
	f.app.CloseWrite()
	far := s.far[len(s.far)-1]
	if q, err := io.ReadAll(far); string(q) != "question" || err != nil {
		t.Errorf("origin read %q %v, want the question and then its end", q, err)
	}
	big := make([]byte, 3*largeBuffer+17)
	far.Write(big)
	far.CloseWrite()
	if a, err := io.ReadAll(f.app); len(a) != len(big) || err != nil {
		t.Errorf("application read %d bytes %v, want all %d and then the end: half-close keeps the answer", len(a), err, len(big))
	}
	<-done
	if f.inside.wasAborted() {
		t.Error("a connection that ended cleanly was reset")
	}
}

func TestStreamOpensAndBytesFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Warm, false)
		s := &fakeSession{delay: 20 * time.Millisecond, rtt: 15 * time.Millisecond}
		hs.ways.warm = s
		exchange(t, hs, s)
		if s.pings != 0 || hs.ways.probes != 0 {
			t.Errorf("%d pings, %d probes: a prompt answer costs nothing beside itself", s.pings, hs.ways.probes)
		}
		if got := hs.h.Stats(); got != (Stats{Opened: 1}) {
			t.Errorf("counts %+v, want one opened, none open", got)
		}
	})
}

func TestEachProbesForEveryConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Each, false)
		for range 2 {
			s := &fakeSession{delay: time.Millisecond}
			hs.ways.each = []Session{s}
			exchange(t, hs, s)
			if !s.retired {
				t.Error("the session of one connection is not kept")
			}
		}
		if hs.ways.probes != 2 {
			t.Errorf("%d probes for 2 connections", hs.ways.probes)
		}
	})
}

func TestEachOpensBesideTheProbe(t *testing.T) {
	for _, tt := range []struct {
		rule        string
		probe, open time.Duration
		want        time.Duration
	}{
		{"the origin is sooner than the proxy", 30 * time.Millisecond, 15 * time.Millisecond, 30 * time.Millisecond},
		{"the proxy is sooner than the origin", 30 * time.Millisecond, 50 * time.Millisecond, 50 * time.Millisecond},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hs := newHarness(t, Each, false)
				s := &fakeSession{delay: tt.open}
				hs.ways.warm, hs.ways.probe = s, tt.probe
				start := time.Now()
				c, err := hs.h.Dial(t.Context(), dst)
				if took := time.Since(start); err != nil || took != tt.want || hs.ways.probes != 1 || s.opened() != 1 || s.retired {
					t.Errorf("%v after %v, %d probes, %d OPENs, retired %v; want %v, one each, and the warm session kept", err, took, hs.ways.probes, s.opened(), s.retired, tt.want)
				}
				c.Abort()
			})
		})
	}
}

func TestEachGoesWhereTheProbeSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Each, false)
		warm, next := &fakeSession{delay: time.Millisecond}, &fakeSession{delay: time.Millisecond}
		hs.ways.warm, hs.ways.probe, hs.ways.each = warm, 30*time.Millisecond, []Session{next}
		exchangeAfter(t, hs, next, 31*time.Millisecond)
		if !next.retired || warm.retired || warm.given != 1 || !warm.far[0].in.isReset() {
			t.Errorf("next retired %v, warm %v, given up %d; want the stream at the old proxy reset, and only the new session let go", next.retired, warm.retired, warm.given)
		}
	})
}

func TestEachRetriesAnUnansweredProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Each, false)
		s := new(fakeSession)
		hs.ways.each = []Session{nil, s}
		exchange(t, hs, s)
		if got := hs.answer(); got != "unreachable" || hs.ways.probes != 4 {
			t.Errorf("got %q after %d probes, want unreachable after Retries+1 = 2 more", got, hs.ways.probes)
		}
	})
}

func TestSilentLinkGetsAFreshProbeBeside(t *testing.T) {
	for name, mode := range map[string]Mode{"warm": Warm, "each": Each} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hs := newHarness(t, mode, false)
				s := &fakeSession{silent: true, delay: 15 * time.Millisecond}
				hs.ways.warm, hs.ways.probe = s, 30*time.Millisecond
				want := minPatience + 30*time.Millisecond + 15*time.Millisecond
				if mode == Each {
					want += 30 * time.Millisecond // its own probe
				}
				start := time.Now()
				c, err := hs.h.Dial(t.Context(), dst)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took != want || s.opened() != 1 || s.given != 0 || len(s.far) != 1 {
					t.Errorf("took %v, %d OPENs, %d given up, %d streams at the origin; want %v, the patience and one probe, and one stream that the session asks for again",
						took, s.opened(), s.given, len(s.far), want)
				}
				c.Abort()
			})
		})
	}
}

func TestSilentLinkAndNobodyElse(t *testing.T) {
	for _, tt := range []struct {
		rule  string
		gone  error
		after time.Duration
	}{
		{"nobody answers: the stream is given up", ErrNobody, minPatience + time.Second},
		{"busy: the session goes on trying", ErrBusy, openTimeout},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hs := newHarness(t, Warm, false)
				s := &fakeSession{silent: true}
				hs.ways.warm, hs.ways.probe, hs.ways.gone = s, time.Second, tt.gone
				start := time.Now()
				_, err := hs.h.Dial(t.Context(), dst)
				if took := time.Since(start); err == nil || took != tt.after || s.opened() != 1 || s.given != 1 {
					t.Errorf("%v after %v, %d OPENs, %d given up; want an error after %v, and the one stream given up", err, took, s.opened(), s.given, tt.after)
				}
			})
		})
	}
}

func TestSlowOriginOnALivingLinkGetsNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Warm, false)
		s := &fakeSession{delay: 5 * time.Second, err: ErrTimedOut, rtt: 40 * time.Millisecond}
		hs.ways.warm = s
		if got := hs.answer(); got != "silence" || hs.ways.probes != 0 || s.opened() != 1 {
			t.Errorf("got %q, %d probes, %d OPENs; want one OPEN, and PINGs to show that the link lives", got, hs.ways.probes, s.opened())
		}
	})
}

func TestSessionThatEndsIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Warm, false)
		s := new(fakeSession)
		hs.ways.warm, hs.ways.fresh = &fakeSession{err: errEnded}, []Session{&fakeSession{err: errEnded}, s}
		exchange(t, hs, s)
	})
}

func TestSessionsThatAlwaysEndAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Warm, false)
		s := &fakeSession{err: errEnded}
		hs.ways.warm, hs.ways.fresh = s, []Session{s, s, s, s, s, s, s}
		if _, err := hs.h.Dial(t.Context(), dst); !errors.Is(err, errEnded) || s.opened() > 2*maxFresh {
			t.Errorf("got %v after %d OPENs, want the reason after a bounded number", err, s.opened())
		}
	})
}

func TestNobodySpeaksOurProtocol(t *testing.T) {
	for _, tt := range []struct {
		rule     string
		fallback bool
		direct   error
		want     string
	}{
		{"fallback none: an error", false, nil, "unreachable"},
		{"fallback direct: refused stays refused", true, syscall.ECONNREFUSED, "refused"},
		{"fallback direct: a timeout stays one", true, syscall.ETIMEDOUT, "silence"},
		{"fallback direct: unreachable stays so", true, syscall.ENETUNREACH, "unreachable"},
	} {
		for name, mode := range map[string]Mode{"warm": Warm, "each": Each} {
			t.Run(tt.rule+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hs := newHarness(t, mode, tt.fallback)
					hs.direct = func() (Conn, error) { return nil, tt.direct }
					if got := hs.answer(); got != tt.want {
						t.Errorf("application got %q, want %q", got, tt.want)
					}
				})
			})
		}
	}
}

func TestFallbackDirectCarriesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Warm, true)
		s := new(fakeSession) // only keeps the far end
		hs.direct = func() (Conn, error) { return open(t.Context(), s, "") }
		exchange(t, hs, s)
		if got := hs.h.Stats(); got != (Stats{Direct: 1}) || len(hs.events) != 1 {
			t.Errorf("counts %+v, events %q; want one direct connection, and said so", got, hs.events)
		}
	})
}

func TestApplicationGoneBeforeAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Warm, false)
		s := new(fakeSession)
		hs.ways.warm = s
		f := newFlow(t)
		f.err = syscall.ECONNRESET
		hs.h.Handle(t.Context(), f)
		if _, err := s.far[0].Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("origin read %v, want a reset: nobody is there any more", err)
		}
	})
}

func TestApplicationGivesUpWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHarness(t, Warm, false)
		hs.ways.warm = &fakeSession{delay: time.Hour, rtt: time.Millisecond}
		ctx, cancel := context.WithCancel(t.Context())
		f := newFlow(t)
		f.ctx = ctx
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		hs.h.Handle(t.Context(), f)
		if f.got() != "silence" || time.Since(start) != time.Second {
			t.Errorf("got %q after %v, want silence at once", f.got(), time.Since(start))
		}
	})
}

func TestUnknownAddress(t *testing.T) {
	hs := newHarness(t, Warm, true)
	if _, err := hs.h.Dial(t.Context(), netip.MustParseAddrPort("198.18.9.9:1")); !errors.Is(err, ErrUnprotected) {
		t.Errorf("got %v, want %v", err, ErrUnprotected)
	}
}

func TestStreamIsAskedForWhenTheSYNArrives(t *testing.T) {
	for name, mode := range map[string]Mode{"warm": Warm, "each": Each} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hs := newHarness(t, mode, false)
				s := &fakeSession{delay: 10 * time.Millisecond}
				hs.ways.warm = s
				f := newFlow(t)
				f.early = hs.h.Arrive(dst)
				time.Sleep(s.delay) // the answer is there before the flow is handled
				done := make(chan struct{})
				go func() { hs.h.Handle(t.Context(), f); close(done) }()
				synctest.Wait()
				if f.got() != "accepted" || s.opened() != 1 {
					t.Errorf("application got %q after %d OPENs, want accepted by the one that Arrive sent", f.got(), s.opened())
				}
				f.app.Abort()
				<-done
			})
		})
	}
}

func TestArriveWithNothingToAsk(t *testing.T) {
	hs := newHarness(t, Warm, false)
	if e := hs.h.Arrive(dst); e != nil {
		t.Errorf("without a session: %v, want nil, so that Handle makes one", e)
	}
	hs.ways.warm = &fakeSession{silent: true}
	if e := hs.h.Arrive(netip.MustParseAddrPort("198.18.9.9:1")); e != nil {
		t.Errorf("unprotected address: %v, want nil", e)
	}
	hs.h.Arrive(dst).Abort()
	if s := hs.ways.warm.(*fakeSession); s.given != 1 {
		t.Error("a flow that never came leaves its stream open")
	}
}
