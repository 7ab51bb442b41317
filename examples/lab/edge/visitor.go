package edge

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

// Visitor is the clients, in a program of its own on a machine of its own: ordinary ones, and agents that come for the first time. It
// is told what to do over net/rpc. Its agents are link.Dialer with a certificate and keys, which is what a real agent dials with; so
// hundreds can come within a second.
type Visitor struct {
	ctx     context.Context
	members []member
	holding *holding // nil: no sessions are held
}

// member is one agent: whom it may dial, and what it shows.
type member struct {
	creds link.Credentials
	edges []proto.Target
}

// NewVisitor returns one that nobody has joined.
func NewVisitor(ctx context.Context) *Visitor { return &Visitor{ctx: ctx} }

// Visit is one attempt. Took is until it was connected, as an agent until the TRANSFER was verified; All is until it had its answer,
// as an agent until it had a link to the next proxy.
type Visit struct {
	Took, All time.Duration
	Error     string // empty: all went well
}

// Plan is how attempts are made.
type Plan struct {
	To       netip.AddrPort
	N        int
	Gap      time.Duration // between beginnings
	Patience time.Duration // with each
	Keyed    bool          // agents: with a keyed SYN
}

// Join enrols so many agents with an open token, by the entry that the plan names.
func (v *Visitor) Join(args JoinArgs, joined *int) error {
	text, err := os.ReadFile(args.Token)
	if err != nil {
		return err
	}
	tok, err := proto.ParseToken(string(text))
	if err != nil {
		return err
	}
	for range args.Agents {
		m, err := enrol(v.ctx, tok, args.Entry)
		if err != nil {
			return fmt.Errorf("enrol at %s: %w", args.Entry, err)
		}
		v.members = append(v.members, m)
	}
	*joined = len(v.members)
	return nil
}

// JoinArgs say who joins: so many agents, with the token in a file, by the entry at an address.
type JoinArgs struct {
	Agents int
	Token  string
	Entry  netip.Addr
}

// enrolLimit is how long one enrolment may take.
const enrolLimit = 20 * time.Second

func enrol(ctx context.Context, tok proto.Token, by netip.Addr) (m member, err error) {
	ctx, cancel := context.WithTimeout(ctx, enrolLimit)
	defer cancel()
	at := slices.IndexFunc(tok.Entries, func(t proto.Target) bool { return t.Addr4 == by })
	if at < 0 {
		return m, errors.New("the token does not name it")
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return m, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key)
	if err != nil {
		return m, err
	}
	d := &link.Dialer{Creds: link.Credentials{CAHash: tok.CAHash}}
	l, _, err := d.Follow(ctx, only4(tok.Entries[at]), proto.KindEnrol)
	if err != nil {
		return m, err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })()
	if err := proto.WriteMessage(l, &proto.Enrol{Token: tok.ID, Secret: tok.Secret, CSR: csr}); err != nil {
		return m, err
	}
	const most = 2 << 20
	answer, err := proto.NewReader(l, most).Message()
	if err != nil {
		return m, err
	}
	ok, isOK := answer.(*proto.EnrolOK)
	if !isOK || len(ok.Chain) == 0 {
		return m, fmt.Errorf("answered with %T", answer)
	}
	ca, err := x509.ParseCertificate(ok.Chain[len(ok.Chain)-1])
	if err != nil {
		return m, err
	}
	m.creds = link.Credentials{CA: ca, Cert: tls.Certificate{Certificate: ok.Chain, PrivateKey: key}}
	for _, k := range ok.Keys.Entries {
		if i := slices.IndexFunc(tok.Entries, func(t proto.Target) bool { return t.Node == k.Node }); i >= 0 {
			t := only4(tok.Entries[i])
			t.Key, t.Keys = k.Key, k.Keys
			m.edges = append(m.edges, t)
		}
	}
	return m, nil
}

// only4 is the target by IPv4: so floods are.
func only4(t proto.Target) proto.Target {
	t.Addr6 = netip.Addr{}
	return t
}

// Come has agents dial an edge as strangers to it, and then where it sends them.
func (v *Visitor) Come(p Plan, all *[]Visit) error {
	if len(v.members) == 0 {
		return errors.New("nobody has joined")
	}
	*all = v.each(p, func(ctx context.Context, i int, x *Visit) error {
		m := v.members[i%len(v.members)]
		at := slices.IndexFunc(m.edges, func(t proto.Target) bool { return t.Addr4 == p.To.Addr() })
		if at < 0 {
			return fmt.Errorf("no key for %s", p.To.Addr())
		}
		d := &link.Dialer{Creds: m.creds, KeyedSYN: p.Keyed, Timeout: p.Patience}
		began := time.Now()
		l, err := d.Dial(ctx, m.edges[at], proto.KindControl, m.edges[at].Node)
		x.Took = time.Since(began)
		if err == nil {
			return errors.Join(errors.New("it serves its clients itself: no attack is known there"), l.Close())
		}
		sealed, ok := errors.AsType[*link.SealedError](err)
		if !ok || sealed.Reply.Kind != proto.ReplyTransfer {
			x.Took = 0
			return err
		}
		next := only4(sealed.Reply.Targets[0])
		d = &link.Dialer{Creds: m.creds, Timeout: p.Patience}
		if l, _, err = d.FollowTold(ctx, next, proto.KindControl); err != nil {
			return fmt.Errorf("sent to %s: %w", next.Addr4, err)
		}
		x.All = time.Since(began)
		return l.Close()
	})
	return nil
}

// Proofs are first flights that the edge at an address would accept: for replays.
func (v *Visitor) Proofs(p Plan, all *[][]byte) error {
	for i := range p.N {
		m := v.members[i%len(v.members)]
		at := slices.IndexFunc(m.edges, func(t proto.Target) bool { return t.Addr4 == p.To.Addr() })
		if at < 0 {
			return fmt.Errorf("no key for %s", p.To.Addr())
		}
		t := m.edges[at]
		pre := proto.Preamble{Kind: proto.KindControl, Key: t.Key, Handle: t.Keys.Handle, Target: t.Node, Time: time.Now(), Nonce: proto.NewNonce()}
		*all = append(*all, pre.Append(nil, t.Keys, t.Node))
	}
	return nil
}

// question is the least that a web server answers.
const question = "HEAD / HTTP/1.0\r\n\r\n"

// Connect has ordinary clients connect to a web server and ask for its first byte.
func (v *Visitor) Connect(p Plan, all *[]Visit) error {
	*all = v.each(p, func(ctx context.Context, _ int, x *Visit) error {
		began := time.Now()
		c, err := dial(ctx, p.To.String())
		if err != nil {
			return err
		}
		defer c.Close()
		x.Took = time.Since(began)
		defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
		if _, err := io.WriteString(c, question); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return err
		}
		x.All = time.Since(began)
		return nil
	})
	return nil
}

func dial(ctx context.Context, to string) (net.Conn, error) {
	d := net.Dialer{}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", to)
}

// each makes the attempts of a plan; one that fails or is too late has an error.
func (v *Visitor) each(p Plan, try func(context.Context, int, *Visit) error) []Visit {
	all := make([]Visit, p.N)
	var tries sync.WaitGroup
	tick := time.NewTicker(max(p.Gap, time.Microsecond))
	defer tick.Stop()
	for i := range all {
		tries.Go(func() {
			ctx, cancel := context.WithTimeout(v.ctx, p.Patience)
			defer cancel()
			if err := try(ctx, i, &all[i]); err != nil {
				all[i].Error = err.Error()
			}
		})
		<-tick.C
	}
	tries.Wait()
	return all
}

// Got is what downloads got.
type Got struct {
	Bytes  int64 // of all, whole or not
	Whole  int   // downloads
	Broken int
	Took   time.Duration
}

// Fetch is how files are fetched: one after the other, as many as a time holds.
type Fetch struct {
	URL      string
	Time     time.Duration
	Patience time.Duration // with each
}

// Download fetches a file again and again.
func (v *Visitor) Download(f Fetch, got *Got) error {
	ctx, cancel := context.WithTimeout(v.ctx, f.Time)
	defer cancel()
	began := time.Now()
	for ctx.Err() == nil {
		n, err := fetch(ctx, f)
		got.Bytes += n
		switch {
		case err == nil:
			got.Whole++
		case ctx.Err() == nil: // else the time was over
			got.Broken++
		}
	}
	got.Took = time.Since(began)
	return nil
}

func fetch(ctx context.Context, f Fetch) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.Patience)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, at string) (net.Conn, error) { return dial(ctx, at) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
	if err != nil {
		return 0, err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if n, err = io.Copy(io.Discard, res.Body); err == nil && n != res.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
