package firewall

import (
	"container/heap"
	"container/list"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// maxAdmitted is ours: the oldest admission goes when there are more.
const maxAdmitted = 65536

// admission is an open door: one address, until a time.
type admission struct {
	addr  netip.Addr
	until time.Time
}

// Admit opens the link port for TCP from addr. It returns when the kernel knows. Many calls at
// once share a transaction. Admitting again extends the time and never shortens it.
func (f *Firewall) Admit(addr netip.Addr, ttl time.Duration) error {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
		return fmt.Errorf("admit %v: no host's address", addr)
	}
	if ttl <= 0 {
		return fmt.Errorf("admit %v for %v: %w", addr, ttl, errTTL)
	}
	if err := f.batch.do(request{addr: addr, until: time.Now().Add(ttl)}); err != nil {
		return fmt.Errorf("admit %v: %w", addr, err)
	}
	return nil
}

var errTTL = errors.New("the time must be positive")

// Evict closes the door for addr. It returns when the kernel knows.
func (f *Firewall) Evict(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	if err := f.batch.do(request{addr: addr}); err != nil {
		return fmt.Errorf("evict %v: %w", addr, err)
	}
	return nil
}

// Admitted is the number of addresses whose door is open.
func (f *Firewall) Admitted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.table.count(time.Now())
}

// apply is one transaction: the last request for an address wins. The table follows the kernel,
// so what failed is not believed to be admitted.
func (f *Firewall) apply(reqs []request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.k == nil {
		return errClosed
	}
	c := f.table.change(reqs, time.Now())
	if len(c.admit)+len(c.evict) == 0 {
		return nil
	}
	if err := f.k.admit(c.admit, c.evict); err != nil {
		return err
	}
	f.table.commit(c)
	if room := c.evict[c.asked:]; len(room) > 0 {
		f.evicted += uint64(len(room))
		if f.plan.cfg.Evicted != nil {
			f.plan.cfg.Evicted(room)
		}
	}
	return nil
}

// table knows the admitted. What a door costs does not depend on how many are open.
type table struct {
	max   int
	at    map[netip.Addr]*door
	order *list.List // of *door, oldest admission first
	soon  byEnd
}

// door is an admission in the table.
type door struct {
	admission
	place *list.Element // in order
	index int           // in soon
}

func newTable(max int) *table {
	return &table{max: max, at: make(map[netip.Addr]*door), order: list.New()}
}

// change is what requests come to.
type change struct {
	admit []admission
	evict []netip.Addr // those that were asked for, then those that make room
	asked int          // how many are the former
}

// change works out what the kernel must be told and changes nothing itself.
func (t *table) change(reqs []request, now time.Time) change {
	t.expire(now)
	want := make(map[netip.Addr]time.Time, len(reqs))
	for _, r := range reqs {
		if r.until.After(want[r.addr]) || r.until.IsZero() {
			want[r.addr] = r.until
		}
	}
	var c change
	fresh := 0
	for addr, until := range want {
		d, known := t.at[addr]
		switch {
		case until.IsZero():
			c.evict = append(c.evict, addr)
			if known {
				fresh--
			}
		case known && !until.After(d.until):
		default:
			c.admit = append(c.admit, admission{addr, until})
			if !known {
				fresh++
			}
		}
	}
	c.asked = len(c.evict)
	for e := t.order.Front(); e != nil && t.order.Len()+fresh > t.max; e = e.Next() {
		if addr := e.Value.(*door).addr; !named(want, addr) {
			c.evict = append(c.evict, addr)
			fresh--
		}
	}
	return c
}

func named(want map[netip.Addr]time.Time, addr netip.Addr) bool {
	_, ok := want[addr]
	return ok
}

// commit makes the table what the kernel now is.
func (t *table) commit(c change) {
	for _, addr := range c.evict {
		t.drop(addr)
	}
	for _, a := range c.admit {
		t.drop(a.addr)
		d := &door{admission: a}
		d.place = t.order.PushBack(d)
		t.at[a.addr] = d
		heap.Push(&t.soon, d)
	}
}

func (t *table) drop(addr netip.Addr) {
	if d, ok := t.at[addr]; ok {
		t.order.Remove(d.place)
		heap.Remove(&t.soon, d.index)
		delete(t.at, addr)
	}
}

// expire forgets what the kernel forgets by itself.
func (t *table) expire(now time.Time) {
	for len(t.soon) > 0 && !t.soon[0].until.After(now) {
		t.drop(t.soon[0].addr)
	}
}

func (t *table) count(now time.Time) int {
	t.expire(now)
	return t.order.Len()
}

// all returns the open doors, oldest first.
func (t *table) all(now time.Time) []admission {
	t.expire(now)
	out := make([]admission, 0, t.order.Len())
	for e := t.order.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(*door).admission)
	}
	return out
}

// byEnd is a heap: the door that closes first is the first.
type byEnd []*door

func (h byEnd) Len() int           { return len(h) }
func (h byEnd) Less(i, j int) bool { return h[i].until.Before(h[j].until) }

func (h byEnd) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push appends a *door.
func (h *byEnd) Push(x any) {
	d := x.(*door)
	d.index = len(*h)
	*h = append(*h, d)
}

// Pop takes the last off.
func (h *byEnd) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return d
}
