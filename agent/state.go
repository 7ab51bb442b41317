package agent

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"migrationsensor/proto"
)

const (
	keyFile   = "key.pem"
	stateFile = "agent.json"
	hostFile  = "host.json" // hostnet's
)

// ErrNotEnrolled means that there is no state yet and no token to get one with.
var ErrNotEnrolled = errors.New("this machine has not joined a fleet yet: ask for a token (proxyd token create --role agent) and run `ms-agent up --token FILE`")

// state is what outlives the process, but for the private key. Set as a whole by the supervisor's goroutine.
type state struct {
	Version   int
	Token     proto.TokenID // that it enrolled with
	Chain     [][]byte      // DER, leaf first, the CA last
	Catalogue []byte        // signed, as it came
	Keys      []savedKeys
	Current   *savedEdge `json:",omitempty"` // the edge that it was told to use last
}

// savedKeys and savedEdge spell out the secrets: proto's own types never print theirs.
type savedKeys struct {
	Node        proto.NodeID
	Gen, Issuer uint8
	K           []byte
	Tag, Handle []byte
	Expiry      time.Time
}

type savedEdge struct {
	savedKeys
	Addr4, Addr6 netip.Addr
	Port         uint16
}

const stateVersion = 1

func saveKeys(node proto.NodeID, id proto.KeyID, a proto.Admission, expiry time.Time) savedKeys {
	return savedKeys{Node: node, Gen: id.Gen, Issuer: id.Issuer, K: a.K[:], Tag: a.Tag[:], Handle: a.Handle[:], Expiry: expiry}
}

func (s savedKeys) keyID() proto.KeyID { return proto.KeyID{Gen: s.Gen, Issuer: s.Issuer} }

func (s savedKeys) admission() (a proto.Admission) {
	copy(a.K[:], s.K)
	copy(a.Tag[:], s.Tag)
	copy(a.Handle[:], s.Handle)
	return a
}

func saveEdge(t proto.Target) *savedEdge {
	return &savedEdge{savedKeys: saveKeys(t.Node, t.Key, t.Keys, time.Time{}), Addr4: t.Addr4, Addr6: t.Addr6, Port: t.Port}
}

func (s *savedEdge) target() proto.Target {
	return proto.Target{Addr4: s.Addr4, Addr6: s.Addr6, Port: s.Port, Node: s.Node, Key: s.keyID(), Keys: s.admission()}
}

// enrolment is a state that has been checked, in the form that the agent works with.
type enrolment struct {
	state
	cert      tls.Certificate
	ca        *x509.Certificate
	id        proto.Identity
	catalogue proto.Catalogue
}

// load reads and checks what an earlier start kept in dir.
func load(dir string, now time.Time) (*enrolment, error) {
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotEnrolled
	}
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("state %s: %w (remove it and join again with a new token)", filepath.Join(dir, stateFile), err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("state of version %d, this ms-agent knows %d: join again with a new token", s.Version, stateVersion)
	}
	key, err := loadKey(dir)
	if err != nil {
		return nil, err
	}
	return check(s, key, now)
}

// check proves that certificates, key and catalogue belong together. An expired certificate is said to be just that.
func check(s state, key ed25519.PrivateKey, now time.Time) (*enrolment, error) {
	e := &enrolment{state: s}
	if len(s.Chain) < 2 {
		return nil, errors.New("certificate chain is incomplete: join again with a new token")
	}
	leaf, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if e.ca, err = x509.ParseCertificate(s.Chain[len(s.Chain)-1]); err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("the certificate is not for this machine's key: join again with a new token")
	}
	if now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate expired on %s: join again with a new token", leaf.NotAfter.Format(time.DateOnly))
	}
	if e.id, err = proto.VerifyPeer(s.Chain, e.ca, now, x509.ExtKeyUsageClientAuth); err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	if want := proto.AgentIDOf(key.Public().(ed25519.PublicKey)); !e.id.Has(proto.RoleAgent) || e.id.Agent != want {
		return nil, errors.New("the certificate does not name this agent: join again with a new token")
	}
	e.cert = tls.Certificate{Certificate: s.Chain, PrivateKey: key, Leaf: leaf}
	if err := proto.OpenDoc(s.Catalogue, e.ca, now, &e.catalogue); err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	return e, nil
}

// save replaces the state on disk as a whole.
func (s state) save(dir string) error {
	s.Version = stateVersion
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return writeFile(filepath.Join(dir, stateFile), data)
}

func loadKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, keyFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("private key: %w (join again with a new token)", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("private key %s is damaged: join again with a new token", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key %s: %w", path, err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("private key %s is no Ed25519 key: join again with a new token", path)
	}
	return key, nil
}

func saveKey(dir string, key ed25519.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("private key: %w", err)
	}
	return writeFile(filepath.Join(dir, keyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// stateDir makes the directory and sees to it that nobody else can read it.
func stateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		if errors.Is(err, syscall.EROFS) {
			return fmt.Errorf("state directory: %w; in compose.yaml add: volumes: [\"NAME:%s\"], with a volume of this machine's own", err, filepath.Dir(dir))
		}
		return fmt.Errorf("state directory: %w (run as root, or set state in the configuration to a directory of yours)", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// writeFile replaces path at once: after a crash there is the old content or the new, never a part.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	defer os.Remove(f.Name()) // in vain after the rename
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
