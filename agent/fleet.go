package agent

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"

	"migrationsensor/agent/connhandler"
	"migrationsensor/proto"
)

// What the fleet tells the agent about itself: catalogue, keys, certificates.

// protect leads the catalogue's addresses into the TUN, as far as they are fit.
func (a *Agent) protect(e *enrolment) error {
	asked := e.publics()
	take, refused := protectable(asked, a.cfg.Accept, a.sys.Own())
	for _, why := range refused {
		a.event("not protected", why)
	}
	services := make(map[netip.AddrPort]connhandler.Service, len(take))
	for _, p := range asked {
		if slices.Contains(take, p.addr) {
			services[p.addr] = connhandler.Service{Name: p.service, Direct: a.cfg.fallback(p.service) == FallbackDirect}
		}
	}
	a.mu.Lock()
	old := a.protected
	a.protected, a.services = take, services
	a.choice.declare(e.catalogue.Services)
	a.mu.Unlock()
	if slices.Equal(old, take) {
		return nil
	}
	if a.machine != nil {
		if err := a.machine.SetProtected(take); err != nil {
			return fmt.Errorf("lead %d addresses into the TUN: %w", len(take), err)
		}
	}
	a.event("protecting", fmt.Sprintf("%v", take))
	return nil
}

// newCatalogue takes a catalogue from the control link: signed by the fleet, and never an older one.
func (s *supervisor) newCatalogue(doc []byte) {
	e := *s.enrolled()
	var c proto.Catalogue
	if err := proto.OpenDoc(doc, e.ca, s.sys.Now(), &c); err != nil {
		s.event("catalogue refused", err.Error())
		return
	}
	switch have := e.catalogue.Version; {
	case c.Fleet != e.id.Fleet:
		s.event("catalogue refused", fmt.Sprintf("it is of fleet %s, this is %s", c.Fleet, e.id.Fleet))
		return
	case c.Version < have:
		s.event("catalogue refused", fmt.Sprintf("version %d is older than %d, which is in use", c.Version, have))
		return
	case c.Version == have:
		return
	}
	e.Catalogue, e.catalogue = doc, c
	s.keep(&e)
	s.event("catalogue", fmt.Sprintf("version %d: %d entries, %d services", c.Version, len(c.Entries), len(c.Services)))
	if err := s.protect(&e); err != nil {
		s.event("not protected", err.Error())
	}
	s.lookAround() // other anchors, perhaps
}

// newKeys takes keys for entries, and for the current edge.
func (s *supervisor) newKeys(m *proto.Keys) {
	e := *s.enrolled()
	e.Keys = slices.Clone(e.Keys)
	for _, k := range keysOf(m) {
		if e.Current != nil && e.Current.Node == k.Node {
			edge := *e.Current
			edge.savedKeys = k
			e.Current = &edge
			if s.up != nil && s.up.cand.Node == k.Node {
				s.up.cand.Key, s.up.cand.Keys = k.keyID(), k.admission()
			}
		}
		i := slices.IndexFunc(e.Keys, func(o savedKeys) bool { return o.Node == k.Node })
		switch {
		case i >= 0:
			e.Keys[i] = k
		case e.isEntry(k.Node):
			e.Keys = append(e.Keys, k)
		}
	}
	s.keep(&e)
	s.log.Debug("keys renewed", "keys", len(m.Entries))
}

// renew asks for a new certificate when two thirds of the old one's life are over.
func (s *supervisor) renew() {
	leaf := s.enrolled().cert.Leaf
	if s.sys.Now().Before(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)) {
		return
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), s.enrolled().cert.PrivateKey)
	if err == nil && s.up != nil {
		err = s.up.send(&proto.Renew{CSR: csr})
	}
	if err != nil {
		s.event("certificate not renewed", err.Error())
	}
}

func (s *supervisor) renewed(m *proto.RenewOK) {
	old := s.enrolled()
	st := old.state
	st.Chain = m.Chain
	key, err := loadKey(s.cfg.State)
	if err == nil {
		var e *enrolment
		if e, err = check(st, key, s.sys.Now()); err == nil && !e.ca.Equal(old.ca) {
			err = fmt.Errorf("it is of another fleet")
		}
		if err == nil {
			s.keep(e)
			s.event("certificate renewed", "until "+e.cert.Leaf.NotAfter.Format("2006-01-02"))
			return
		}
	}
	s.event("certificate not renewed", err.Error())
}
