package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/app"
	"migrationsensor/examples/lab/fleet"
)

// Visit is an application that somebody watches: each second it fetches the file by a new connection, and beside that an ssh
// session and a download go on; a line a second says how they are. It knows the addresses of a server and nothing else. What ends
// is begun again a second later, and said.
func Visit(ctx context.Context, at netip.Addr, say func(string, ...any)) error {
	v := &visitor{at: at, say: say}
	if err := Ready(); err != nil {
		return err
	}
	go v.again(ctx, "download", v.download)
	go v.again(ctx, "ssh", v.typing)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s := fetch(ctx, netip.AddrPortFrom(at, lab.WebPort))
		fetched := fmt.Sprintf("fetch ok, %3.0f ms", ms(s.Total))
		switch {
		case ctx.Err() != nil:
			return nil
		case s.Wrong:
			fetched = "fetch WRONG: another digest"
		case !s.OK():
			fetched = "fetch FAILED: " + s.Err
		}
		now := time.Now()
		say("%s | ssh %s | download %s", fetched, v.ssh.text(last, now), v.get.text(last, now))
		last = now
	}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// visitor is what Visit knows.
type visitor struct {
	at       netip.Addr
	say      func(string, ...any)
	ssh, get progress
}

// again runs one thing over and over.
func (v *visitor) again(ctx context.Context, what string, run func(context.Context) error) {
	for ctx.Err() == nil {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			v.say("%s ENDED: %v", what, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (v *visitor) download(ctx context.Context) error {
	defer v.get.stop()
	url := fmt.Sprintf("http://%s/visit-%d", netip.AddrPortFrom(v.at, lab.StreamPort), time.Now().UnixNano())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	trace := v.get.start(fleet.StreamEvery)
	b := make([]byte, 64<<10)
	for {
		n, err := res.Body.Read(b)
		if n > 0 {
			trace.Add(time.Now())
		}
		if err != nil {
			return err
		}
	}
}

func (v *visitor) typing(ctx context.Context) error {
	defer v.ssh.stop()
	client, err := DialSSH(ctx, netip.AddrPortFrom(v.at, lab.SSHPort))
	if err != nil {
		return err
	}
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	screen, _, err := app.Shell(client)
	if err != nil {
		return err
	}
	const every = 100 * time.Millisecond
	y := app.NewTypist()
	v.ssh.follow(&y.Trace, every)
	seen, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() { watched <- y.Watch(screen); cancel() }()
	err = y.Type(seen, screen, every)
	client.Close()
	if werr := <-watched; err == nil {
		err = werr
	}
	if err == nil {
		err = io.EOF
	}
	return err
}

// DialSSH logs in to the demo's ssh server, which lets everybody in and whose key nobody knows before.
func DialSSH(ctx context.Context, at netip.AddrPort) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var d net.Dialer
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return nil, err
	}
	client, err := app.SSHClient(ctx, c, at.String(), &ssh.ClientConfig{User: "demo", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return client, nil
}

// SSH is an ssh session at this program's own terminal, or pipe: the far end echoes what is typed, until Ctrl-D, or the pipe's
// end.
func SSH(ctx context.Context, at netip.AddrPort, in *os.File, out io.Writer) error {
	client, err := DialSSH(ctx, at)
	if err != nil {
		return err
	}
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	screen, wait, err := app.Shell(client)
	if err != nil {
		return err
	}
	if term.IsTerminal(int(in.Fd())) {
		fmt.Fprintf(out, "connected to %s; what you type is echoed by the far end; Ctrl-D ends\r\n", at)
		before, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return err
		}
		defer term.Restore(int(in.Fd()), before)
		go typeOn(in, screen)
	} else {
		go func() {
			if _, err := io.Copy(screen, in); err == nil {
				_, _ = screen.Write(endOfInput) // its end shows
			}
		}()
	}
	if _, err := io.Copy(out, screen); err != nil {
		return err
	}
	return wait()
}

// endOfInput is a terminal's Ctrl-D.
var endOfInput = []byte{4}

// typeOn passes keys on; a terminal in raw mode sends a return where the far end wants a line's end.
func typeOn(in io.Reader, to io.Writer) {
	b := make([]byte, 256)
	for {
		n, err := in.Read(b)
		for i := range b[:n] {
			if b[i] == '\r' {
				b[i] = '\n'
			}
		}
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			return
		}
	}
}
