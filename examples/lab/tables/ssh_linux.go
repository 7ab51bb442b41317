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

// sshd is Debian's, at the origin and at the unprotected site.
type sshd struct {
	*fleet.SSH
	stage   *stage
	file    string // what is fetched
	dial    string // ProxyCommand without the address
	byPaper string
}

// newSSHD starts both. If it can't, it says why in words, and there is no error.
func newSSHD(ctx context.Context, s *stage) (d *sshd, missing string, err error) {
	d = &sshd{stage: s}
	d.SSH, err = s.NewSSH(ctx)
	if errors.Is(err, fleet.ErrNoSSH) {
		return nil, err.Error(), nil
	}
	if err != nil {
		return nil, "", err
	}
	d.file = filepath.Join(d.Dir, "file")
	if err := os.WriteFile(d.file, s.Origin.File(), 0o600); err != nil {
		return nil, "", err
	}
	d.dial = s.Lab() + " dial" // ssh puts an exec before it
	d.byPaper = fmt.Sprintf("%s --paper --rtt %s --key-file %s", d.dial, s.assumed.RTT, s.keyFile)
	origin, _ := lab.BackOrigin.Port(lab.OriginSSH)
	site, _ := lab.Site.Port(lab.SSHPort)
	if err := errors.Join(d.Serve(s.World.Origin, "sshd-origin", origin), d.Serve(s.World.Site, "sshd-site", site)); err != nil {
		return nil, "", err
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
	args := append([]string{"-T"}, d.Args(how, "cat "+d.file)...)
	return func(ctx context.Context) fleet.Sample {
		limited, cancel := context.WithTimeout(ctx, fleet.FetchLimit)
		defer cancel()
		cmd := exec.CommandContext(limited, d.Program, args...)
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
