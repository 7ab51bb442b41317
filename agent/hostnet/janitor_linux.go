package hostnet

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The janitor is a child of the agent, of the same program. It reads what to clean up from its standard input,
// a pipe whose other end only the agent holds, and then waits for the next line:
//
//	DISMISSED        the agent has cleaned up itself
//	end of file      the agent is dead, however it died
const (
	janitorName = "ms-agent: janitor" // argv[0]
	janitorEnv  = "MS_AGENT_JANITOR"
	dismissed   = "dismissed\n"
)

// janitor is the agent's side.
type janitor struct {
	cmd  *exec.Cmd
	pipe *os.File // close-on-exec: no other child holds it open
	done chan struct{}
}

func startJanitor(l leftovers, s *stateFile, log *slog.Logger) (*janitor, error) {
	first, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("janitor: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("janitor: %w", err)
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{janitorName}
	cmd.Env = []string{janitorEnv + "=1"}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // not hit by ^C
	if s != nil {
		cmd.ExtraFiles = []*os.File{s.f} // the lock lives as long as the longer-lived of us
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start janitor: %w", err), w.Close())
	}
	j := &janitor{cmd: cmd, pipe: w, done: make(chan struct{})}
	go j.wait(log)
	if _, err := w.Write(append(first, '\n')); err != nil {
		j.dismiss()
		return nil, fmt.Errorf("instruct janitor: %w", err)
	}
	return j, nil
}

// wait reaps the janitor. It ends before dismiss only by somebody's hand.
func (j *janitor) wait(log *slog.Logger) {
	defer close(j.done)
	if err := j.cmd.Wait(); err != nil {
		log.Warn("janitor ended: if the agent is killed now, only the next start cleans up", "err", err)
	}
}

// dismiss sends the janitor away with nothing to do and waits for it.
func (j *janitor) dismiss() {
	_, _ = io.WriteString(j.pipe, dismissed) // fails only if it is dead already
	_ = j.pipe.Close()
	<-j.done
}

func janitorMain() bool {
	if len(os.Args) == 0 || os.Args[0] != janitorName || os.Getenv(janitorEnv) == "" {
		return false
	}
	// Who stops the agent may signal its whole group; the work begins only after that.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	in := bufio.NewReader(os.Stdin)
	first, err := in.ReadBytes('\n')
	if err != nil {
		return true // killed before it had changed anything
	}
	if next, _ := in.ReadString('\n'); next == dismissed {
		return true
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("from", "janitor")
	if err := cleanUp(parseLeftovers(first), log); err != nil {
		log.Error("cleaning up after the agent", "err", err)
	}
	return true
}

// cleanUp deletes rules first: then no new connection can get the TUN's address any more.
func cleanUp(l leftovers, log *slog.Logger) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer nl.Close()
	n, err := deleteRules(nl)
	log.Info("the agent is gone: removed its rules", "rules", n)
	d, derr := openDiag()
	if derr != nil {
		return errors.Join(err, derr)
	}
	defer d.close()
	d.abortFrom(log, l.Addr4, l.Addr6)
	return err
}
