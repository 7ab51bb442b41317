package fleet

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// The files of a state directory.
const (
	fileNode      = "node.json"
	fileKey       = "node.key"
	fileCert      = "node.crt"
	fileSecrets   = "secrets.json"
	fileFleet     = "fleet.doc"
	fileCatalogue = "catalogue.doc"
	fileCAKey     = "ca.key"
	fileFleetKey  = "fleet.key"
	fileLedger    = "ledger.json"
	dirTokens     = "tokens"

	maxFile = 16 << 20
)

// dir is a state directory.
type dir string

// makeDir makes the directory, for its owner only.
func makeDir(path string) (dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		if errors.Is(err, syscall.EROFS) {
			return "", fmt.Errorf("state: %w; in compose.yaml add: volumes: [\"NAME:%s\"], with a volume of this machine's own", err, filepath.Dir(path))
		}
		return "", fmt.Errorf("state: %w; set `state` to a directory you may write", err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return "", fmt.Errorf("state: %w", err)
	}
	return dir(path), nil
}

func (d dir) path(name string) string { return filepath.Join(string(d), name) }

func (d dir) has(name string) bool {
	_, err := os.Lstat(d.path(name))
	return err == nil
}

// read refuses a file that others may read: it may have been copied already.
func (d dir) read(name string) ([]byte, error) {
	fi, err := os.Stat(d.path(name))
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("state: %w; run this as the user that owns it, mostly root", err)
	}
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if runtime.GOOS != "windows" && fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("state: %s may be read by others (mode %04o); run chmod 600 on it", d.path(name), fi.Mode().Perm())
	}
	if fi.Size() > maxFile {
		return nil, fmt.Errorf("state: %s has %d bytes, too many", d.path(name), fi.Size())
	}
	b, err := os.ReadFile(d.path(name))
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return b, nil
}

// write replaces a file as a whole; after a crash it is the old one or the new one.
func (d dir) write(name string, b []byte) error {
	tmp, err := d.temporary(name, b)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := os.Rename(tmp, d.path(name)); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return d.sync(name)
}

// create writes a file that must not exist yet.
func (d dir) create(name string, b []byte) error {
	tmp, err := d.temporary(name, b)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, d.path(name)); err != nil { // unlike Rename it never replaces
		return fmt.Errorf("state: %w", err)
	}
	return d.sync(name)
}

func (d dir) temporary(name string, b []byte) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(d.path(name)), ".new-*") // 0600
	if err != nil {
		return "", fmt.Errorf("state: %w", err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("state: %w", err)
	}
	return f.Name(), nil
}

// sync makes a file's new name durable.
func (d dir) sync(name string) error {
	if runtime.GOOS == "windows" { // directories can't be synced there
		return nil
	}
	f, err := os.Open(filepath.Dir(d.path(name)))
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

func (d dir) readJSON(name string, v any) error {
	b, err := d.read(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("state: %s: %w", d.path(name), err)
	}
	return nil
}

func (d dir) writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("state: %s: %w", name, err)
	}
	return d.write(name, append(b, '\n'))
}

const (
	pemKey  = "PRIVATE KEY"
	pemCert = "CERTIFICATE"
)

func encodeKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

func (d dir) readKey(name string) (ed25519.PrivateKey, error) {
	b, err := d.read(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemKey {
		return nil, fmt.Errorf("state: %s is no PEM private key", d.path(name))
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("state: %s: %w", d.path(name), err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("state: %s is a key of another kind than Ed25519", d.path(name))
	}
	return key, nil
}

// makeKey returns the key that is there, else a new one.
func (d dir) makeKey(name string) (ed25519.PrivateKey, error) {
	key, err := d.readKey(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	_, key, err = ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	b, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, d.create(name, b)
}

func (d dir) remove(name string) error {
	if err := os.Remove(d.path(name)); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

func encodeChain(chain [][]byte) []byte {
	var out []byte
	for _, der := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der})...)
	}
	return out
}

func (d dir) readChain(name string) ([][]byte, error) {
	b, err := d.read(name)
	if err != nil {
		return nil, err
	}
	var chain [][]byte
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCert {
			return nil, fmt.Errorf("state: %s holds a %s", d.path(name), block.Type)
		}
		chain = append(chain, block.Bytes)
	}
	if len(chain) < 2 {
		return nil, fmt.Errorf("state: %s holds no certificate chain", d.path(name))
	}
	return chain, nil
}
