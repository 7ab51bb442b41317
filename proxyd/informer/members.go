package informer

import (
	"slices"

	"migrationsensor/proto"
)

// maxMembers is how many control links of one agent are members (ours): one of each of its starts, and there may be two
// machines with one identity. The oldest goes: an agent that wants more gets nothing for it.
const maxMembers = 8

// Join adds a connected agent; leave takes it away again. It stands by until Boot says otherwise.
func (i *Informer) Join(m *Member) (leave func()) {
	for _, o := range i.join(m) {
		if o.End != nil {
			o.End()
		}
	}
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.removeLocked(m)
	}
}

func (i *Informer) join(m *Member) (old []*Member) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.agents[m.Agent]) >= maxMembers {
		o := i.agents[m.Agent][0]
		i.removeLocked(o)
		old = append(old, o)
	}
	m.since = i.cfg.Now()
	i.members[m] = struct{}{}
	i.agents[m.Agent] = append(i.agents[m.Agent], m)
	return old
}

func (i *Informer) removeLocked(m *Member) {
	m.left = true
	if _, ok := i.members[m]; !ok {
		return
	}
	delete(i.members, m)
	rest := slices.DeleteFunc(i.agents[m.Agent], func(o *Member) bool { return o == m })
	if i.agents[m.Agent] = rest; len(rest) == 0 {
		delete(i.agents, m.Agent)
	}
	i.countLocked(m)
	i.countLocked(rest...)
}

// Boot notes what an agent says of its control link. The newest one takes the place of all others of the same start of
// the agent: it has one here, current or standing by, and it may be that nobody ever hears of the others' end. So they
// are ended. One of another start may be another machine's: it is told where to go as well, but counts no more.
func (i *Informer) Boot(m *Member, boot uint64, current bool) {
	for _, o := range i.replaced(m, boot, current) {
		if o.End != nil {
			o.End()
		}
	}
}

func (i *Informer) replaced(m *Member, boot uint64, current bool) (old []*Member) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if m.left {
		return nil
	}
	if current && !m.current {
		i.askLocked(m, proto.MigrateID{}, proto.NodeID{})
	}
	m.boot, m.current = boot, current
	of := i.agents[m.Agent]
	for _, o := range of {
		if o != m && o.boot == boot {
			o.current = false
			old = append(old, o)
		}
	}
	if at := slices.Index(of, m); current { // the newest is the last
		copy(of[at:], of[at+1:])
		of[len(of)-1] = m
	}
	i.countLocked(of...)
	return old
}

// countsLocked reports whether a member stands for its agent: the newest of its current control links does.
func (i *Informer) countsLocked(m *Member) bool {
	if !m.current || m.left {
		return false
	}
	of := i.agents[m.Agent]
	for k := len(of) - 1; k >= 0; k-- {
		if of[k].current {
			return of[k] == m
		}
	}
	return false
}

// tally is how many agents are connected, and how many of them have not acknowledged their notification.
type tally struct{ connected, waiting int }

// countLocked brings the tally up to date after something changed about these members.
func (i *Informer) countLocked(of ...*Member) {
	for _, m := range of {
		var now tally
		if i.countsLocked(m) {
			now.connected = 1
			if !m.acked {
				now.waiting = 1
			}
		}
		i.tally.connected += now.connected - m.counted.connected
		i.tally.waiting += now.waiting - m.counted.waiting
		m.counted = now
	}
}

// Members returns how many agents are connected, and how many of them have not acknowledged a
// migration notification. Those that only stand by do not count: they are somewhere else. It takes no longer for many:
// it is asked whenever a link ends.
func (i *Informer) Members() (connected, waiting int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.tally.connected, i.tally.waiting
}
