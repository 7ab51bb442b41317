package hostnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// leftovers is what the next start must know of an agent that was killed. Rules need no entry: they carry our
// protocol number.
type leftovers struct {
	PID    int        `json:"pid"`
	Start  uint64     `json:"start"` // of the process, in ticks since boot: a pid alone may be another's by now
	Device string     `json:"device"`
	Addr4  netip.Addr `json:"addr4"`
	Addr6  netip.Addr `json:"addr6"`
}

const (
	// janitorPatience is how long a start waits for a dead agent's janitor to finish.
	janitorPatience = 3 * time.Second

	// ownerPatience is how long it waits for a live agent: one that was just killed still looks alive.
	ownerPatience = 500 * time.Millisecond
)

// stateFile is a locked file. The janitor shares the lock, so it is free only when the agent is dead and all
// is cleaned up. A nil stateFile is one without a path.
type stateFile struct{ f *os.File }

// lockState opens and locks path. A live owner is ErrInUse; for a dead one's janitor it waits.
func lockState(path string) (*stateFile, error) {
	if path == "" {
		return nil, nil
	}
	start := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := tryLock(path)
		if s != nil || err != nil {
			return s, err
		}
		holder, alive := holderOf(path)
		patience := janitorPatience
		if alive {
			patience = ownerPatience
		}
		if time.Since(start) > patience {
			return nil, fmt.Errorf("state file %s is held by process %d: %w (stop it: ms-agent down)", path, holder, ErrInUse)
		}
		<-tick.C
	}
}

// tryLock returns nil, nil if somebody holds the lock, or the file was removed under us.
func tryLock(path string) (*stateFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, f.Close()
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock state file %s: %w", path, err), f.Close())
	}
	mine, err1 := f.Stat()
	now, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, now) {
		return nil, f.Close() // its last owner removed it between our open and our lock
	}
	return &stateFile{f: f}, nil
}

func holderOf(path string) (pid int, alive bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	l := parseLeftovers(b)
	if l.PID == 0 {
		return 0, false
	}
	start, err := startTime(l.PID)
	return l.PID, err == nil && start == l.Start
}

// parseLeftovers takes what it can: a half-written file is as good as none.
func parseLeftovers(b []byte) leftovers {
	var l leftovers
	if json.Unmarshal(b, &l) != nil {
		return leftovers{}
	}
	return l
}

func (s *stateFile) read() leftovers {
	if s == nil {
		return leftovers{}
	}
	b, err := io.ReadAll(io.NewSectionReader(s.f, 0, 4096))
	if err != nil {
		return leftovers{}
	}
	return parseLeftovers(b)
}

func (s *stateFile) write(l leftovers) (err error) {
	if s == nil {
		return nil
	}
	l.PID = os.Getpid()
	if l.Start, err = startTime(l.PID); err != nil {
		return err
	}
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if err := s.f.Truncate(0); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if _, err := s.f.WriteAt(append(b, '\n'), 0); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func (s *stateFile) unlock() error {
	if s == nil {
		return nil
	}
	return s.f.Close()
}

// remove deletes the file while the lock is held, then lets go of it.
func (s *stateFile) remove() error {
	if s == nil {
		return nil
	}
	err := os.Remove(s.f.Name())
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.unlock())
}

// startTime reads field 22 of /proc/PID/stat; the command in field 2 may hold spaces and parentheses.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, fmt.Errorf("process %d: no start time", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
