package connhandler

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
)

func TestResetCrossesBothWays(t *testing.T) {
	for _, side := range []string{"application", "origin"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				app, a := pair()
				origin, b := pair()
				done := make(chan struct{})
				go func() { Relay(t.Context(), a, b); close(done) }()
				io.WriteString(app, "x")
				io.ReadFull(origin, make([]byte, 1))
				from, to := app, origin
				if side == "origin" {
					from, to = origin, app
				}
				from.Abort()
				<-done
				if n, err := to.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("other side read %d, %v; want a reset, never a clean end", n, err)
				}
			})
		})
	}
}

func TestGivenUpStreamEndsInAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app, a := pair()
		origin, b := pair()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { Relay(ctx, a, b); close(done) }()
		synctest.Wait()
		cancel()
		<-done
		for name, c := range map[string]*fakeConn{"application": app, "origin": origin} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s read %v, want a reset", name, err)
			}
		}
	})
}
