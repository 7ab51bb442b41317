package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proxyd"
	"migrationsensor/proxyd/fleet"
)

type initCmd struct {
	Fleet string `help:"Name of the fleet, if the configuration is yet to be written: prints one to start from." placeholder:"NAME"`
}

func (initCmd) Example() string {
	return "  proxyd init --fleet example > proxyd.toml     then edit it\n  proxyd init --config proxyd.toml\n"
}

// Run makes the fleet that the configuration declares.
func (c *initCmd) Run(e *env) error {
	cfg, err := e.config()
	switch {
	case c.Fleet != "" && (errors.Is(err, fs.ErrNotExist) || err == nil && !cfg.Signing()):
		fmt.Fprintf(e.stdout, starter, c.Fleet)
		fmt.Fprintln(e.stderr, "proxyd: this is a configuration to start from; no fleet was made. Save and edit it, then run proxyd init --config FILE")
		return nil
	case err != nil:
		return err
	case !cfg.Signing():
		return fmt.Errorf("no fleet is declared in %s; `proxyd init --fleet NAME` prints a configuration to start from", where(cfg))
	case c.Fleet != "" && c.Fleet != cfg.Fleet:
		return fmt.Errorf("--fleet %s, but %s declares fleet %q; correct one of them", c.Fleet, where(cfg), cfg.Fleet)
	}
	st, err := fleet.Init(cfg.State, cfg.Declaration(), time.Now())
	if err != nil {
		return err
	}
	n := st.Node()
	fmt.Fprintf(e.stdout, "fleet %q: this machine is its signing node, %q (%s); state in %s\n", n.Fleet, n.Name, n.ID, cfg.State)
	fmt.Fprintf(e.stdout, "next: proxyd run here; for each edge proxyd token create --role edge --node NAME --out FILE\n")
	return nil
}

func where(cfg proxyd.Config) string {
	if cfg.File == "" {
		return proxyd.DefaultConfigFile + " (which does not exist)"
	}
	return cfg.File
}

// starter is a whole small fleet, in addresses for documentation.
const starter = `# proxyd.toml of the signing node: it declares services and nodes for the whole fleet.
fleet = %q

[[service]]
name = "web"
public = ["203.0.113.10:443"]      # what clients dial: an address of an entry
origin = "10.0.0.80:443"           # as the edges reach it
plain = "drop"                     # clients without an agent, during an attack: drop or admit

[[node]]
name = "sign"                      # this machine
kind = "signer"
backplane = "10.0.0.9:7444"

[[node]]
name = "p1"
kind = "entry"                     # anyone may know it
public = ["203.0.113.10"]
backplane = "10.0.0.1:7444"
neighbours = ["p2"]                # to whom its clients go when it is flooded

[[node]]
name = "p2"
kind = "hidden"                    # its address is secret
public = ["198.51.100.20"]
backplane = "10.0.0.2:7444"
`

type tokenCmd struct {
	Role    string        `help:"agent, edge or anchor." required:"" placeholder:"ROLE"`
	Node    string        `help:"The only node that may join with it (edge, anchor)." placeholder:"NAME"`
	Uses    int           `help:"How many may join with it." default:"1"`
	Open    bool          `help:"No limit of uses: a public fleet."`
	Expires time.Duration `help:"How long it is good." default:"24h"`
	Groups  []string      `help:"What the agent may use: groups of services." placeholder:"A,B"`
	Out     string        `help:"Write it to this file, for its owner only, in place of printing it." placeholder:"FILE"`
}

func (tokenCmd) Example() string {
	return "  proxyd token create --role edge --node p1 --out p1.token\n  proxyd token create --role agent --uses 20 --expires 168h --groups staff --out staff.token\n"
}

// Run makes a token.
func (c *tokenCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	uses := c.Uses
	switch {
	case c.Open && uses != 1:
		return fmt.Errorf("--open means no limit; leave out --uses %d, or --open", uses)
	case c.Open:
		uses = 0
	case uses < 1:
		return fmt.Errorf("--uses %d: write 1 or more, or --open", uses)
	}
	if c.Out != "" { // before the token exists, so that none is made in vain
		if _, err := os.Lstat(c.Out); err == nil {
			return fmt.Errorf("%s exists; remove it or name another file", c.Out)
		}
	}
	t, err := fleet.CreateToken(cfg.State, fleet.TokenRequest{
		Role: proto.Role(c.Role), Node: c.Node, Uses: uses, Life: c.Expires, Groups: c.Groups,
	}, time.Now())
	if errors.Is(err, fleet.ErrNotJoined) {
		return fmt.Errorf("no fleet in %s; tokens are made on the signing node, after proxyd init (is --config right?): %w", cfg.State, err)
	} else if err != nil {
		return err
	}
	if c.Out == "" {
		_, err := fmt.Fprintln(e.stdout, t.String())
		return err
	}
	if err := writeSecret(c.Out, t.String()+"\n"); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "token %s for role %s in %s, good until %s\n", t.ID, t.Role, c.Out, t.Expires.Local().Format("2006-01-02 15:04"))
	return nil
}

func writeSecret(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the token: %w", err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

type joinCmd struct {
	As    string `help:"Which declared node this machine is." placeholder:"NODE" required:""`
	Token string `arg:"" help:"File with the token, or - for standard input." placeholder:"FILE|-"`
}

func (joinCmd) Example() string {
	return "  proxyd join --as p1 p1.token\n  ssh sign proxyd token create --role edge --node p1 | proxyd join --as p1 -\n"
}

// Run joins the token's fleet.
func (c *joinCmd) Run(e *env) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	if cfg.Signing() {
		return fmt.Errorf("%s declares a fleet, so this machine is its signing node; an edge's configuration has no fleet, [[service]] and [[node]]", where(cfg))
	}
	text, err := c.read(e.stdin)
	if err != nil {
		return err
	}
	t, err := proto.ParseToken(text)
	if err != nil {
		return err
	}
	st, err := fleet.Join(e.ctx, fleet.JoinConfig{Dir: cfg.State, As: c.As, Token: t})
	if err != nil {
		return err
	}
	n := st.Node()
	fmt.Fprintf(e.stdout, "joined fleet %q as %q (%s, %s); next: proxyd run\n", n.Fleet, n.Name, n.Kind, n.ID)
	return nil
}

// read reads the token. One typed as the argument works too, with a warning: others can see it.
func (c *joinCmd) read(stdin io.Reader) (string, error) {
	const limit = 32 << 10
	if strings.HasPrefix(c.Token, proto.TokenPrefix) {
		fmt.Fprintln(os.Stderr, "proxyd: every user of this machine can see a token on the command line; a file or - hides it")
		return c.Token, nil
	}
	if c.Token != "-" {
		f, err := os.Open(filepath.Clean(c.Token))
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		defer f.Close()
		stdin = f
	}
	b, err := io.ReadAll(io.LimitReader(stdin, limit))
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return string(bytes.TrimSpace(b)), nil
}
