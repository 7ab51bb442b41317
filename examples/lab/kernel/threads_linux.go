package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// threadsFD is where the inner program reaches the outer one's Threads.
const threadsFD = 4

// ErrNoThreads says that the kernel's own threads can't be seen: the lab was started in a container.
var ErrNoThreads = errors.New("the kernel's own threads can't be seen from here (in a container they are the host's)")

// Threads does, in the outer half of the program, what the inner half can't: a kernel thread is no process of its namespace.
type Threads struct{}

// Pin is a request: the threads whose name begins so run on this processor only, and with this niceness.
type Pin struct {
	Name      string
	CPU, Nice int
}

// Pin pins threads and says how many.
func (Threads) Pin(p Pin, pinned *int) error {
	return each(p.Name, func(pid int) error {
		var set unix.CPUSet
		set.Set(p.CPU)
		*pinned++
		if err := unix.SchedSetaffinity(pid, &set); err != nil {
			return fmt.Errorf("pin %s to processor %d: %w (needs root)", p.Name, p.CPU, err)
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, pid, p.Nice); err != nil {
			return fmt.Errorf("make %s as nice as %d: %w (needs root)", p.Name, p.Nice, err)
		}
		return nil
	})
}

// Used is how long the threads whose name begins so have run, together.
func (Threads) Used(name string, used *time.Duration) error {
	return each(name, func(pid int) error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			return err
		}
		ns, _, _ := strings.Cut(string(b), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		*used += time.Duration(n)
		return err
	})
}

// each calls f for every kernel thread whose name begins so.
func each(name string, f func(pid int) error) error {
	all, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	found := false
	for _, file := range all {
		b, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(b), name) {
			continue // it has ended, or is another
		}
		dir := filepath.Dir(file)
		if line, err := os.ReadFile(filepath.Join(dir, "cmdline")); err != nil || len(line) > 0 {
			continue // a program that only has such a name
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return err
		}
		found = true
		if err := f(pid); err != nil {
			return err
		}
	}
	if !found {
		return ErrNoThreads
	}
	return nil
}

// serveThreads answers the inner program; it returns the end that it inherits.
func serveThreads() (inner *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	ours := os.NewFile(uintptr(pair[0]), "threads")
	s := rpc.NewServer()
	if err := s.Register(Threads{}); err != nil {
		return nil, err
	}
	go s.ServeConn(ours) // until the inner program has ended
	return os.NewFile(uintptr(pair[1]), "threads"), nil
}

// outer is how the inner program asks; nil outside.
var outer *rpc.Client

func reachThreads() error {
	f := os.NewFile(threadsFD, "threads")
	c, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("the outer program: %w", err)
	}
	outer = rpc.NewClient(c)
	return nil
}

// PinThread keeps the kernel's threads whose name begins so on one processor, with a niceness from -20, before everything else, to 19.
func PinThread(name string, cpu, nice int) error {
	var n int
	return ask("Threads.Pin", Pin{name, cpu, nice}, &n)
}

// ThreadUsed is how long the kernel's threads whose name begins so have run, together.
func ThreadUsed(name string) (used time.Duration, err error) {
	err = ask("Threads.Used", name, &used)
	return used, err
}

func ask(method string, args, reply any) error {
	if outer == nil {
		return fmt.Errorf("kernel threads: %w", ErrOutside)
	}
	err := outer.Call(method, args, reply)
	if err != nil && err.Error() == ErrNoThreads.Error() {
		return ErrNoThreads
	}
	return err
}
