package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"migrationsensor/examples/lab/kernel"
)

// ErrNoSSH says, with the reason, that there can be no sshd here.
var ErrNoSSH = errors.New("no ssh here")

// SSH is Debian's ssh and sshd with keys and configuration of this run in the run's own folder. Nothing of the machine's own
// ssh is read or written.
type SSH struct {
	Dir     string // its files
	Program string // ssh
	sshd    string
	fleet   *Fleet
}

// NewSSH makes keys. Its error is ErrNoSSH where the machine lacks something.
func (f *Fleet) NewSSH(ctx context.Context) (*SSH, error) {
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("%w: sshd needs root: run as root", ErrNoSSH)
	}
	s := &SSH{Dir: filepath.Join(f.Work(), "ssh"), sshd: "/usr/sbin/sshd", fleet: f}
	if _, err := os.Stat(s.sshd); err != nil {
		return nil, fmt.Errorf("%w: no sshd: install it (apt install openssh-server)", ErrNoSSH)
	}
	var err error
	if s.Program, err = exec.LookPath("ssh"); err != nil {
		return nil, fmt.Errorf("%w: no ssh: install it (apt install openssh-client)", ErrNoSSH)
	}
	for _, dir := range []string{s.Dir, "/run/sshd"} { // sshd's empty directory; /run is the sandbox's own
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	for _, key := range []string{"host", "user"} {
		out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ms-lab", "-f", filepath.Join(s.Dir, key)).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	host, err := os.ReadFile(filepath.Join(s.Dir, "host.pub"))
	if err != nil {
		return nil, err
	}
	return s, os.WriteFile(filepath.Join(s.Dir, "known"), []byte("lab "+string(host)), 0o600)
}

// Serve starts sshd as a program of the fleet.
func (s *SSH) Serve(ns *kernel.Namespace, name string, at netip.AddrPort) error {
	config := filepath.Join(s.Dir, name)
	if err := os.WriteFile(config, []byte(s.config(at)), 0o600); err != nil {
		return err
	}
	return s.fleet.Run(ns, name, s.sshd, "-D", "-e", "-f", config)
}

func (s *SSH) config(at netip.AddrPort) string {
	return fmt.Sprintf(`ListenAddress %s
HostKey %[2]s/host
AuthorizedKeysFile %[2]s/user.pub
PidFile none
UsePAM no
UseDNS no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitUserRC no
PrintMotd no
PrintLastLog no
X11Forwarding no
AllowTcpForwarding no
AllowAgentForwarding no
MaxStartups 100
`, at, s.Dir)
}

// Args are ssh's for a command at the far end; how says how to connect, as options of ssh's -o.
func (s *SSH) Args(how []string, command ...string) []string {
	args := []string{"-F", "none", "-i", filepath.Join(s.Dir, "user")}
	for _, o := range append(how[:len(how):len(how)],
		"UserKnownHostsFile="+filepath.Join(s.Dir, "known"), "GlobalKnownHostsFile=none", "HostKeyAlias=lab", "StrictHostKeyChecking=yes",
		"IdentitiesOnly=yes", "IdentityAgent=none", "PreferredAuthentications=publickey", "BatchMode=yes",
		"ControlPath=none", "Compression=no", "LogLevel=ERROR", "UpdateHostKeys=no",
	) {
		args = append(args, "-o", o)
	}
	return append(append(args, "root@lab"), command...)
}
