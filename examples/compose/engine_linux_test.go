package compose

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"migrationsensor/examples/lab"
	"migrationsensor/examples/lab/container"
	"migrationsensor/examples/lab/scan"
)

// TestByHand does what the README says, in one run: what a person can do to the containers, and how our programs behave in them.
func TestByHand(t *testing.T) {
	h := byHand(t)
	in := func(name string, test func(hands)) {
		t.Run(name, func(t *testing.T) {
			h := h
			h.T = t
			test(h)
		})
	}
	h.until(30*time.Second, "the application is at work", func() (bool, error) {
		log := h.appSays()
		return strings.Contains(log, "ssh goes on for 2 s | download goes on for 2 s"), errors.New(log)
	})
	in("a second copy is refused", func(h hands) {
		if err := h.Clear(h.Context(), h.Logf); !errors.Is(err, container.ErrBusy) || !strings.Contains(err.Error(), "docker-compose down -v") {
			h.Errorf("got %v, want ErrBusy and what to do", err)
		}
	})
	in("logs are JSON where there is no terminal", testLogs)
	in("nothing is written to the image, and no secret is in it", testClean)
	in("what is missing is named with the line to add", testMissing)
	in("a hidden proxy is as dark as an unused address", func(h hands) { h.dark("p2") })
	in("P3's network is taken away and given back", func(h hands) { h.replug("p3", lab.P3.V4.String()); h.dark("p3") })
	in("so is P1's, that serves the application", func(h hands) {
		h.replug("p1", lab.P1.V4.String())
		h.fetches("after that")
		h.lives("after that")
	})
	in("P1 is killed, then the next one", testKills)
	in("a proxy that is paused", testPause)
	in("SIGTERM ends each within 2 s", testTerm)
	in("no container has started again by itself", func(h hands) {
		states, err := h.States(h.Context())
		for _, s := range states {
			if s.Restarts != 0 {
				h.Errorf("%s: %d restarts", s.Name, s.Restarts)
			}
		}
		if err != nil {
			h.Error(err)
		}
	})
}

// programs are the containers that run proxyd or ms-agent.
var programs = []string{"sign", "a1", "p1", "p2", "p3", "e2", "client"}

func testLogs(h hands) {
	for _, name := range programs {
		lines := 0
		for line := range strings.Lines(h.must("logs", container.Prefix+name)) {
			lines++
			if !json.Valid([]byte(line)) {
				h.Errorf("%s logs %q, which is not JSON", name, line)
			}
		}
		if lines == 0 {
			h.Errorf("%s logs nothing", name)
		}
	}
}

func testClean(h hands) {
	states, err := h.States(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	for _, s := range states {
		mounts := "/run " + h.must("inspect", "--format", "{{range .Mounts}}{{.Destination}} {{end}}", s.Name)
		for line := range strings.Lines(h.must("diff", s.Name)) { // the engine has made the places to mount at
			_, file, _ := strings.Cut(strings.TrimSpace(line), " ")
			if !slices.ContainsFunc(strings.Fields(mounts), func(m string) bool { return m == file || strings.HasPrefix(m, file+"/") }) {
				h.Errorf("%s has changed its image: %s", s.Name, line)
			}
		}
		if all := h.must("inspect", s.Name); strings.Contains(all, "ms://join") {
			h.Errorf("%s: a token is in its environment or command", s.Name)
		}
	}
	for line := range strings.Lines(h.must("history", "--no-trunc", "migrationsensor-demo")) {
		if strings.Contains(line, "ms://join") {
			h.Errorf("the image has a token: %s", line)
		}
	}
}

// testMissing runs our programs with the state of a machine that has joined, and less than they need.
func testMissing(h hands) {
	edge := []string{"-v", "migrationsensor_p3:/var/lib/migrationsensor", "--entrypoint", "proxyd"}
	agent := []string{"-v", "migrationsensor_client:/var/lib/migrationsensor", "--entrypoint", "ms-agent"}
	for _, tt := range []struct {
		what, want string
		with, run  []string
	}{
		{"an edge without rights", "cap_add: [NET_ADMIN, NET_RAW]", edge, []string{"run"}},
		{"an edge without NET_RAW", "cap_add: [NET_RAW]", append([]string{"--cap-add=NET_ADMIN"}, edge...), []string{"run"}},
		{"an agent without the device", `devices: ["/dev/net/tun:/dev/net/tun"]`, append([]string{"--cap-add=NET_ADMIN", "--tmpfs=/run"}, agent...), []string{"up"}},
		{"an agent without NET_ADMIN", "cap_add: [NET_ADMIN]", append([]string{"--device=/dev/net/tun", "--tmpfs=/run"}, agent...), []string{"up"}},
		{"an agent without a place for its socket", `tmpfs: ["/run"]`, append([]string{"--device=/dev/net/tun", "--cap-add=NET_ADMIN"}, agent...), []string{"up"}},
		{"a node without a place for its state", `volumes: ["NAME:/var/lib/migrationsensor"]`,
			[]string{"-v", "migrationsensor_tokens-nodes:/tokens:ro", "-u", "0:65534", "--entrypoint", "proxyd"}, []string{"run", "--as=p3", "--token=/tokens/p3.token"}},
	} {
		args := append([]string{"run", "--rm", "--read-only", "--network=none", "--cap-drop=ALL"}, tt.with...)
		out, err := h.Docker(h.Context(), append(append(args, "migrationsensor-demo"), tt.run...)...)
		if err == nil || !strings.Contains(out, tt.want) {
			h.Errorf("%s: %v, want it refused with %s; it says\n%s", tt.what, err, tt.want, out)
		}
	}
}

// dark scans a hidden proxy from the attacker's container.
func (h hands) dark(name string) {
	h.Helper()
	to := map[string]scan.Config{"p2": {Target: lab.P2.V4}, "p3": {Target: lab.P3.V4}}[name]
	to.Unused, to.Rate = lab.Unused.V4, 1000
	var r scan.Result
	if err := h.Call(h.Context(), "attacker", "Scan", to, &r); err != nil || r.Replies() != 0 || !r.Alike() || len(r.Unused.Others) == 0 {
		h.Errorf("scan of %s: %+v, %v: want what an unused address gets: the router's word where a TTL ends, and nothing else", name, r, err)
	}
}

// replug takes a proxy's public network away and gives it back.
func (h hands) replug(name, address string) {
	h.Helper()
	back := func() int {
		return strings.Count(h.must("logs", container.Prefix+name), "the public interface is back")
	}
	before := back()
	h.must("network", "disconnect", "ms-edge", container.Prefix+name)
	h.until(10*time.Second, name+" says that its interface is gone", func() (bool, error) {
		n := strings.Count(h.must("logs", container.Prefix+name), "the public interface is gone")
		return n > before, fmt.Errorf("said %d times", n)
	})
	h.must("network", "connect", "--ip", address, "ms-edge", container.Prefix+name)
	h.until(10*time.Second, name+" says that its interface is back", func() (bool, error) {
		return back() > before, errors.New("not yet")
	})
	if err := h.Trouble(h.Context()); err != nil {
		h.Error(err)
	}
}

// testKills kills the proxy that serves the application until it has been to another one twice.
func testKills(h hands) {
	serving := func() string {
		st, err := h.AgentStatus(h.Context(), "client")
		if err != nil {
			h.Fatal(err)
		}
		return nameOf(st.ServedBy())
	}
	for range 2 {
		at := serving()
		h.must("kill", container.Prefix+at)
		h.until(20*time.Second, "the application goes on elsewhere than at "+at, func() (bool, error) {
			now := serving()
			return now != "" && now != at, fmt.Errorf("it is at %q", now)
		})
		h.fetches("after the death of " + at)
		h.lives("after the death of " + at)
		h.must("start", container.Prefix+at)
		h.until(20*time.Second, at+" is back", func() (bool, error) {
			st, err := h.ProxyStatus(h.Context(), at)
			return err == nil && st.State == "active", fmt.Errorf("%q, %w", st.State, err)
		})
		if n := strings.Count(h.must("logs", container.Prefix+at), `"joined"`); n != 1 {
			h.Errorf("%s has joined %d times, want once", at, n)
		}
	}
}

func nameOf(addr string) string {
	for name, a := range map[string]string{"p1": lab.P1.V4.String(), "p2": lab.P2.V4.String(), "p3": lab.P3.V4.String(), "e2": lab.E2.V4.String()} {
		if strings.HasPrefix(addr, a+":") {
			return name
		}
	}
	return ""
}

// testPause: a proxy that stands still says nothing, and its agents go elsewhere.
func testPause(h hands) {
	st, err := h.AgentStatus(h.Context(), "client")
	if err != nil {
		h.Fatal(err)
	}
	at := nameOf(st.ServedBy())
	h.must("pause", container.Prefix+at)
	h.until(20*time.Second, "the application goes on elsewhere than at "+at, func() (bool, error) {
		st, err := h.AgentStatus(h.Context(), "client")
		now := nameOf(st.ServedBy())
		return err == nil && now != "" && now != at, fmt.Errorf("it is at %q, %w", now, err)
	})
	h.fetches("while " + at + " is paused")
	h.must("unpause", container.Prefix+at)
	h.lives("after " + at + " was paused")
}

// testTerm asks each program to end, while traffic goes through them.
func testTerm(h hands) {
	const limit = 2 * time.Second
	tun := func() error { // as the application sees it, which keeps the client's network when that ends
		return h.Call(h.Context(), "app", "Packets", "ms0", new(uint64))
	}
	if err := tun(); err != nil {
		h.Errorf("there is no TUN before: %v", err)
	}
	for _, name := range []string{"client", "p1", "e2", "p2", "p3", "a1", "sign"} {
		begin := time.Now()
		h.must("kill", "-s", "TERM", container.Prefix+name)
		status := strings.TrimSpace(h.must("wait", container.Prefix+name))
		if took := time.Since(begin); status != "0" || took > limit {
			h.Errorf("%s ended with status %s after %v, want 0 within %v", name, status, took, limit)
		}
		if log := h.must("logs", container.Prefix+name); strings.Contains(log, "not removed") || strings.Contains(log, "undo what was done") {
			h.Errorf("%s did not undo everything:\n%s", name, log)
		}
	}
	if tun() == nil {
		h.Error("the client's TUN is still there")
	}
	for _, name := range []string{"sign", "a1", "p1", "client"} {
		h.must("start", container.Prefix+name)
	}
	h.until(30*time.Second, "the client is back with what it was enrolled with", func() (bool, error) {
		st, err := h.AgentStatus(h.Context(), "client")
		return err == nil && st.State == "connected", fmt.Errorf("%q, %w", st.State, err)
	})
}
