package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The main thread stays where it is: /proc/self is the main thread, and the sandbox dies with it.
func init() { runtime.LockOSThread() }

// inside, in the environment, tells the re-executed program that it is the inner one.
const inside = "MS_LAB_INSIDE"

// readyFD is where the inner program tells the outer one that the sandbox stands, or why not.
const readyFD = 3

// Enter puts the program into the sandbox: it runs the program again, in fresh namespaces, waits
// for it and exits with its status. So it returns nil only inside, and it returns an error only
// outside, when there can be no sandbox here. Call it first thing in main or TestMain, on the main
// goroutine.
func Enter() error {
	if os.Getenv(inside) != "" && os.Getpid() == 1 {
		return enterInside()
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	threads, err := serveThreads()
	if err != nil {
		return err
	}
	cmd := innerCommand(w, threads)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	err = cmd.Start()
	w.Close()
	threads.Close()
	if err != nil {
		return fmt.Errorf("%w: %w; %s", ErrNoSandbox, err, namespaceHint())
	}
	go func() {
		for s := range signals { // a terminal sends Ctrl-C to both programs; it must take two for one
			_ = cmd.Process.Signal(s)
		}
	}()
	answer, _ := io.ReadAll(io.LimitReader(r, 4096))
	err = cmd.Wait()
	if a := string(answer); a != "ready" && a != "" {
		return fmt.Errorf("%w: %s", ErrNoSandbox, a)
	}
	os.Exit(exitCode(err))
	return nil
}

func innerCommand(ready, threads *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{ready, threads}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Getuid() != 0 {
		a := cmd.SysProcAttr
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// enterInside finishes the sandbox from within and reports to the outer program.
func enterInside() error {
	os.Unsetenv(inside)
	ready := os.NewFile(readyFD, "ready")
	if err := errors.Join(reachThreads(), furnish()); err != nil {
		ready.WriteString(err.Error())
		os.Exit(1)
	}
	ready.WriteString("ready")
	ready.Close()
	return nil
}

// furnish mounts what programs inside expect and checks that the kernel lets us work here.
func furnish() error {
	for _, m := range []struct {
		what, at, kind string
		flags          uintptr
		data           string
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	} {
		if err := unix.Mount(m.what, m.at, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w; %s", m.at, err, namespaceHint())
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback of the sandbox: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback of the sandbox: %w; %s", err, namespaceHint())
	}
	return probeTUN()
}

// probeTUN says now, with the remedy, what would fail in the middle of the lab.
func probeTUN() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		return f.Close()
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w; load it with: sudo modprobe tun (in a container add --device /dev/net/tun)", err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w; only root may open it here: run as root, or: sudo chmod 0666 /dev/net/tun", err)
	}
	return err
}

// namespaceHint names what usually forbids namespaces.
func namespaceHint() string {
	if os.Getuid() == 0 && os.Getenv(inside) == "" && !inUserNamespace() {
		return "needs CAP_SYS_ADMIN and CAP_NET_ADMIN (in a container: --privileged)"
	}
	var hint strings.Builder
	hint.WriteString("this user may not make namespaces: run as root")
	for _, s := range []struct{ file, bad, name string }{
		{"kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"},
		{"user/max_user_namespaces", "0", "user.max_user_namespaces=15000"},
	} {
		if v, err := os.ReadFile("/proc/sys/" + s.file); err == nil && strings.TrimSpace(string(v)) == s.bad {
			hint.WriteString(", or: sudo sysctl " + s.name)
		}
	}
	return hint.String()
}

func inUserNamespace() bool {
	m, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !strings.Contains(string(m), "4294967295")
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() >= 0 {
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	return 1
}
