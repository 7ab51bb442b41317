package proto

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestRelayHeader(t *testing.T) {
	good := aRelay.Append(nil, aRelayKey)
	h, err := ParseRelayHeader(good)
	if err != nil || h != aRelay {
		t.Fatalf("got %+v, %v, want %+v", h, err, aRelay)
	}
	if err := h.Verify(good, aRelayKey, aTime.Add(RelayMaxSkew)); err != nil {
		t.Errorf("a minute old: %v", err)
	}
	for i := range good {
		b := append([]byte(nil), good...)
		b[i] ^= 1
		if h, err := ParseRelayHeader(b); err == nil && h.Verify(b, aRelayKey, aTime) == nil {
			t.Errorf("byte %d changed: accepted", i)
		}
	}
	for _, c := range []struct {
		rule string
		b    []byte
		key  RelayKey
		now  time.Time
		want error
	}{
		{"another key", good, RelayKey{1}, aTime, ErrRelayMAC},
		{"61 s old", good, aRelayKey, aTime.Add(RelayMaxSkew + time.Second), ErrRelayClock},
		{"61 s ahead", good, aRelayKey, aTime.Add(-RelayMaxSkew - time.Second), ErrRelayClock},
		{"cut off", good[:RelayHeaderLen-1], aRelayKey, aTime, ErrRelay},
		{"a byte too many", append(good[:RelayHeaderLen:RelayHeaderLen], 0), aRelayKey, aTime, ErrRelay},
	} {
		if err := h.Verify(c.b, c.key, c.now); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.rule, err, c.want)
		}
	}
	nowhere := aRelay
	nowhere.Addr = netip.AddrPort{}
	if _, err := ParseRelayHeader(nowhere.Append(nil, aRelayKey)); !errors.Is(err, ErrRelay) {
		t.Errorf("an agent of nowhere: got %v", err)
	}
}

// TestRelayNonces: a header is good once as long as its time is good.
func TestRelayNonces(t *testing.T) {
	s := NewRelayNonces()
	seen := func(at time.Time) bool { fresh, _ := s.Seen(aNonce, aClient, at); return !fresh }
	if seen(aTime.Add(-RelayMaxSkew)) {
		t.Error("the first is no replay")
	}
	if !seen(aTime) || !seen(aTime.Add(RelayMaxSkew)) {
		t.Error("replayed while its time is good")
	}
}
