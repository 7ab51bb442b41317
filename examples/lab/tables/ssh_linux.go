package tables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/fleet"
	"migrationsensor/examples/lab/kernel"
)

// sshd is Debian's, at the origin and at the unprotected site, with keys of this run in the run's own
// folder. Nothing of the machine's own ssh is read or written.
type sshd struct {
	stage   *stage
	ssh     string
	dir     string
	file    string // what is fetched
	dial    string // ProxyCommand without the address
	byPaper string
}

// newSSHD starts both. If it can't, it says why in words, and there is no error.
func newSSHD(ctx context.Context, s *stage) (d *sshd, missing string, err error) {
	if os.Getuid() != 0 {
		return nil, "sshd needs root: run as root", nil
	}
	program := "/usr/sbin/sshd"
	if _, err := os.Stat(program); err != nil {
		return nil, "no sshd here: install it (apt install openssh-server)", nil
	}
	d = &sshd{stage: s, dir: filepath.Join(s.Work(), "ssh")}
	if d.ssh, err = exec.LookPath("ssh"); err != nil {
		return nil, "no ssh here: install it (apt install openssh-client)", nil
	}
	if err := d.prepare(ctx); err != nil {
		return nil, "", err
	}
	origin, _ := lab.BackOrigin.Port(lab.OriginSSH)
	site, _ := lab.Site.Port(lab.SSHPort)
	for _, x := range []struct {
		ns   *kernel.Namespace
		name string
		at   netip.AddrPort
	}{{s.World.Origin, "sshd-origin", origin}, {s.World.Site, "sshd-site", site}} {
		config := filepath.Join(d.dir, x.name)
		if err := os.WriteFile(config, []byte(d.config(x.at)), 0o600); err != nil {
			return nil, "", err
		}
		if err := s.Run(x.ns, x.name, program, "-D", "-e", "-f", config); err != nil {
			return nil, "", err
		}
	}
	return d.try(ctx)
}

// try fetches once with nothing of ours in between. What fails then is this machine's sshd.
func (d *sshd) try(ctx context.Context) (*sshd, string, error) {
	fetch := d.run(d.stage.World.Plain, "Hostname="+lab.Site.V4.String())
	var last fleet.Sample
	err := fleet.Wait(ctx, 10*time.Second, "sshd answers", nil, func() (bool, error) {
		last = fetch(ctx)
		return last.OK(), nil
	})
	if ctx.Err() != nil {
		return nil, "", ctx.Err()
	}
	if err != nil {
		for _, name := range []string{"sshd-origin", "sshd-site"} {
			err = errors.Join(err, d.stage.Stop(name))
		}
		why, _, _ := strings.Cut(last.Err, "\n")
		return nil, fmt.Sprintf("sshd does not serve here (%s): see %s", why, d.stage.Paths("sshd-site").Log), nil
	}
	return d, "", nil
}

// prepare makes keys and the file.
func (d *sshd) prepare(ctx context.Context) error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd's empty directory; /run is the sandbox's own
		return err
	}
	d.file = filepath.Join(d.dir, "file")
	if err := os.WriteFile(d.file, d.stage.Origin.File(), 0o600); err != nil {
		return err
	}
	for _, key := range []string{"host", "user"} {
		out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ms-lab", "-f", filepath.Join(d.dir, key)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	host, err := os.ReadFile(filepath.Join(d.dir, "host.pub"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "known"), []byte("lab "+string(host)), 0o600); err != nil {
		return err
	}
	a := d.stage.assumed
	d.dial = d.stage.Lab() + " dial" // ssh puts an exec before it
	d.byPaper = fmt.Sprintf("%s --paper --rtt %s --key-file %s", d.dial, a.RTT, d.stage.keyFile)
	return nil
}

func (d *sshd) config(at netip.AddrPort) string {
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
`, at, d.dir)
}

// over fetches the file by `ssh … cat file`; its time is the whole command's. The same ProxyCommand
// makes the connection for every system, so only the handshake differs.
func (d *sshd) over(ns *kernel.Namespace, to netip.Addr, byPaper bool) func(context.Context) fleet.Sample {
	command := d.dial
	if byPaper {
		command = d.byPaper
	}
	return d.run(ns, "ProxyUseFdpass=yes", "ProxyCommand="+command+" "+netip.AddrPortFrom(to, lab.SSHPort).String())
}

// run fetches by ssh with options that say how to connect.
func (d *sshd) run(ns *kernel.Namespace, how ...string) func(context.Context) fleet.Sample {
	args := []string{"-T", "-F", "none", "-i", filepath.Join(d.dir, "user")}
	for _, o := range append(how,
		"UserKnownHostsFile="+filepath.Join(d.dir, "known"), "GlobalKnownHostsFile=none", "HostKeyAlias=lab", "StrictHostKeyChecking=yes",
		"IdentitiesOnly=yes", "IdentityAgent=none", "PreferredAuthentications=publickey", "BatchMode=yes",
		"ControlPath=none", "Compression=no", "LogLevel=ERROR", "UpdateHostKeys=no",
	) {
		args = append(args, "-o", o)
	}
	args = append(args, "root@lab", "cat "+d.file)
	return func(ctx context.Context) fleet.Sample {
		limited, cancel := context.WithTimeout(ctx, fleet.FetchLimit)
		defer cancel()
		cmd := exec.CommandContext(limited, d.ssh, args...)
		cmd.Env = append(os.Environ(), "SHELL=/bin/sh")
		body, told := fleet.NewBody(), &strings.Builder{}
		cmd.Stdout, cmd.Stderr = body, told
		s := fleet.Sample{Start: time.Now()}
		err := ns.Start(cmd)
		if err == nil {
			err = cmd.Wait()
		}
		s.Total = time.Since(s.Start)
		s.Whole = err == nil && body.Whole()
		s.Wrong = s.Whole && !body.Is(d.stage.Origin.Digest)
		if !s.Whole {
			s.Err = strings.TrimSpace(fmt.Sprintf("ssh: %v: %s", err, told))
		}
		return s
	}
}
