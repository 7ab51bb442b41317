package docs

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "migrationsensor"

type pkg struct {
	ImportPath   string
	Name         string
	Imports      []string
	Deps         []string
	TestImports  []string
	XTestImports []string
}

// list runs go list for one system: the rules hold for the files of every system.
func list(t *testing.T, goos string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Name,Imports,Deps,TestImports,XTestImports", module+"/...")
	cmd.Dir = ".."
	cmd.Env = append(cmd.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list for %s: %v\n%s", goos, err, stderr.Bytes())
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath == module || strings.HasPrefix(p.ImportPath, module+"/") {
			all = append(all, p)
		}
	}
}

// within reports whether path is the package dir of this module or one below it.
func within(path, dir string) bool {
	path, ok := strings.CutPrefix(path, module+"/")
	return ok && (path == dir || strings.HasPrefix(path, dir+"/"))
}

// ours lists what a package may import of this module. The first rule that holds the package counts.
var ours = []struct {
	rule string
	pkg  string   // the package, or any below it
	may  []string // packages of ours, or below them
}{
	{"the command is the top of the agent", "agent/cmd", []string{"agent", "proto"}},
	{"components of the agent know the wire only", "agent/connhandler", []string{"proto"}},
	{"hostnet imports none of ours", "agent/hostnet", nil},
	{"the agent joins its components", "agent", []string{"agent", "netstack", "proto"}},
	{"netstack imports none of ours", "netstack", []string{"netstack"}},
	{"detect imports none of ours", "detect", nil},
	{"the command is the top of the proxy", "proxyd/cmd", []string{"proxyd", "proto"}},
	{"components of the proxy know the wire only", "proxyd/packethandler", nil},
	{"components of the proxy know the wire only", "proxyd/firewall", nil},
	{"components of the proxy know the wire only", "proxyd/anchor", []string{"proto"}},
	{"components of the proxy know the wire only", "proxyd/synchecker", []string{"proto"}},
	{"components of the proxy know the wire only", "proxyd/informer", []string{"proto"}},
	{"components of the proxy know the wire only", "proxyd/fleet", []string{"proto"}},
	{"the proxy joins its components", "proxyd", []string{"proxyd", "detect", "proto"}},
	{"the wire imports nothing above it", "proto", []string{"proto"}},
	{"examples may use everything", "examples", []string{"agent", "proxyd", "netstack", "detect", "proto", "examples"}},
	{"docs import nothing", "docs", nil},
}

// walls keep a library in its one place, test files excepted where said.
var walls = []struct {
	lib, rule string
	in        []string
}{
	{"gvisor.dev/gvisor", "gVisor lives in netstack", []string{"netstack"}},
	{"golang.zx2c4.com/wireguard", "wireguard/tun lives in netstack", []string{"netstack"}},
	{"github.com/google/gopacket", "gopacket lives in detect, synchecker and the lab", []string{"detect", "proxyd/synchecker", "examples/lab"}},
	{"golang.org/x/net/bpf", "packet filters live in detect, synchecker and the lab", []string{"detect", "proxyd/synchecker", "examples/lab"}},
	{"github.com/cilium/ebpf", "eBPF lives in detect, synchecker and the lab's flood tool", []string{"detect", "proxyd/synchecker", "examples/lab/flood"}},
	{"github.com/google/nftables", "nftables lives in firewall", []string{"proxyd/firewall"}},
	{"github.com/alecthomas/kong", "kong lives in the commands", []string{"agent/cmd", "proxyd/cmd", "examples/lab/cmd"}},
	{"github.com/compose-spec/compose-go", "compose-go is for a test only", nil},
	{"github.com/lmittmann/tint", "tint lives in the commands", []string{"agent/cmd", "proxyd/cmd", "examples/lab/cmd"}},
}

func TestImportsGoDownOnly(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows"} {
		for _, p := range list(t, goos) {
			for _, imp := range p.Imports {
				if strings.HasPrefix(imp, module+"/") {
					checkOurs(t, p, imp)
				}
			}
			for _, w := range walls {
				if slices.ContainsFunc(w.in, func(d string) bool { return within(p.ImportPath, d) }) {
					continue
				}
				for _, imp := range p.Imports {
					if imp == w.lib || strings.HasPrefix(imp, w.lib+"/") {
						t.Errorf("%s (%s) imports %s: %s", p.ImportPath, goos, imp, w.rule)
					}
				}
			}
		}
	}
}

func checkOurs(t *testing.T, p pkg, imp string) {
	t.Helper()
	for _, r := range ours {
		if !within(p.ImportPath, r.pkg) {
			continue
		}
		if !slices.ContainsFunc(r.may, func(d string) bool { return within(imp, d) }) {
			t.Errorf("%s imports %s: %s", p.ImportPath, imp, r.rule)
		}
		return
	}
	t.Errorf("%s has no rule: give it one, and a line in ARCHITECTURE.md", p.ImportPath)
}

// TestCommands holds that `go install ./...` gives exactly the three programs.
func TestCommands(t *testing.T) {
	var got []string
	for _, p := range list(t, "linux") {
		if p.Name == "main" {
			got = append(got, strings.TrimPrefix(p.ImportPath, module+"/"))
		}
	}
	slices.Sort(got)
	want := []string{"agent/cmd/ms-agent", "examples/lab/cmd/ms-lab", "proxyd/cmd/proxyd"}
	if !slices.Equal(got, want) {
		t.Errorf("go install ./... gives %v, want %v", got, want)
	}
}
