package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"migrationsensor/proto"
	"migrationsensor/proto/link"
)

const (
	enrolTimeout = 30 * time.Second // from ENROL to the answer; the signing node is behind the entry
	maxMessage   = 2 << 20          // of a message on an enrol or control link
)

// enrol joins a fleet: through an entry named by the token to the signing node. What comes back is checked and
// kept; the private key is made here and stays here.
func (a *Agent) enrol(ctx context.Context, text string) (*enrolment, error) {
	now := a.sys.Now()
	tok, err := proto.ParseToken(text)
	if err != nil {
		return nil, err
	}
	if err := tok.Check(now); err != nil {
		return nil, err
	}
	if tok.Role != proto.RoleAgent {
		return nil, fmt.Errorf("this token is for a node of role %s (`proxyd join`), not for an agent: ask for one of role agent", tok.Role)
	}
	if len(tok.Entries) == 0 {
		return nil, errors.New("this token names no entry: ask for a new one")
	}
	a.event("enrolling", fmt.Sprintf("token %s, entries %d", tok.ID, len(tok.Entries)))
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	ok, err := a.askEntries(ctx, tok, key)
	if err != nil {
		return nil, err
	}
	e, err := accept(tok, ok, key, now)
	if err != nil {
		return nil, fmt.Errorf("answer to the enrolment: %w", err)
	}
	if err := errors.Join(saveKey(a.cfg.State, key), e.save(a.cfg.State)); err != nil {
		return nil, err
	}
	a.event("enrolled", fmt.Sprintf("fleet %s, agent %s", e.id.Fleet, e.id.Agent))
	return e, nil
}

// askEntries tries the token's entries in turn. A signing node's refusal ends it: the next entry would ask the same.
func (a *Agent) askEntries(ctx context.Context, tok proto.Token, key ed25519.PrivateKey) (*proto.EnrolOK, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	m := &proto.Enrol{Token: tok.ID, Secret: tok.Secret, CSR: csr}
	d := a.dialer(link.Credentials{CAHash: tok.CAHash}, 0)
	var errs []error
	for _, t := range tok.Entries {
		ok, err := askEntry(ctx, d, t, m)
		if err == nil {
			return ok, nil
		}
		if fail, isRefusal := errors.AsType[*refusedError](err); isRefusal && !fail.later {
			return nil, fail
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = append(errs, err)
	}
	if later, ok := errors.AsType[*refusedError](errors.Join(errs...)); ok {
		return nil, later
	}
	return nil, explainEnrol(errors.Join(errs...))
}

// undecided reports whether the same token may be good a moment later.
func undecided(err error) bool {
	if refused, ok := errors.AsType[*refusedError](err); ok {
		return refused.later
	}
	return noAnswer(err)
}

// refusedError is the fleet's no; later: nobody decided, and the token is as good as before.
type refusedError struct {
	later  bool
	reason string
}

func (e *refusedError) Error() string {
	if e.later {
		return "not enrolled, and the token was not used: " + e.reason
	}
	return "the fleet refuses this token: " + e.reason
}

func askEntry(ctx context.Context, d *link.Dialer, t proto.Target, m *proto.Enrol) (*proto.EnrolOK, error) {
	l, _, err := d.Follow(ctx, t, proto.KindEnrol)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })()
	if err := proto.WriteMessage(l, m); err != nil {
		return nil, fmt.Errorf("enrol at proxy %s: %w", t.Node, err)
	}
	answer, err := proto.NewReader(l, maxMessage).Message()
	if err != nil {
		return nil, fmt.Errorf("enrol at proxy %s: %w", t.Node, err)
	}
	switch answer := answer.(type) {
	case *proto.EnrolOK:
		return answer, nil
	case *proto.EnrolFail:
		return nil, &refusedError{answer.Later, answer.Reason}
	}
	return nil, fmt.Errorf("enrol at proxy %s: unexpected %T", t.Node, answer)
}

// accept checks an ENROL_OK against the token: nothing is trusted but the CA that the token pinned.
func accept(tok proto.Token, ok *proto.EnrolOK, key ed25519.PrivateKey, now time.Time) (*enrolment, error) {
	s := state{Token: tok.ID, Chain: ok.Chain, Catalogue: ok.Catalogue, Keys: keysOf(&ok.Keys)}
	e, err := check(s, key, now)
	if err != nil {
		return nil, err
	}
	if proto.CAHash(e.ca) != tok.CAHash {
		return nil, errors.New("its certificates are not of the fleet that made the token")
	}
	if len(s.Keys) == 0 {
		return nil, errors.New("it brings no key for any entry")
	}
	return e, nil
}

func keysOf(m *proto.Keys) (out []savedKeys) {
	for _, k := range m.Entries {
		out = append(out, saveKeys(k.Node, k.Key, k.Keys, k.Expiry))
	}
	return out
}
