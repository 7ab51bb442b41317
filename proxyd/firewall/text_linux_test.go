package firewall

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What an operator is shown is what the kernel is told: nft reads the text, and its doors are ours.
func TestText(t *testing.T) {
	for name, c := range map[string]struct{ hidden, defending bool }{"active": {}, "defending": {defending: true}, "hidden": {hidden: true}} {
		t.Run(name, func(t *testing.T) {
			text, err := Text(config(c.hidden), c.defending)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, filepath.Join("testdata", name+".nft"), []byte(text))
			nft, err := exec.LookPath("nft")
			if err != nil {
				if os.Getenv("CI") != "" {
					t.Fatal(err)
				}
				t.Skip("no nft to read it: apt-get install nftables")
			}
			w := newWorld(t)
			w.serve()
			w.edge.must("nft", func() error {
				cmd := exec.Command(nft, "-f", "-")
				cmd.Stdin = strings.NewReader(text)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("nft refuses the text: %s", out)
				}
				return err
			})
			for _, e := range families {
				w.wantIn("a peer", e.peer, e.edge, linkPort)
				for _, door := range []struct {
					port uint16
					open bool
				}{
					{linkPort, !c.hidden && !c.defending}, {dropPort, !c.hidden && !c.defending},
					{openPort, !c.hidden}, {cookiePort, !c.hidden}, {sshPort, !c.hidden},
				} {
					if door.open {
						w.wantIn(name, e.client, e.edge, door.port)
					} else {
						w.wantOut(name, e.client, e.edge, door.port)
					}
				}
			}
		})
	}
}
