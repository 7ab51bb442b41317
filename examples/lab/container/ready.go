package container

import (
	"context"
	"errors"
	"fmt"
	"os"

	"migrationsensor/examples/lab/fleet"
)

// readyFile says that a program without a control socket is ready; /run is in memory and goes with the container.
const readyFile = "/run/ready"

// The control sockets of our programs in a container, where they are by default.
const (
	AgentSocket  = "/run/migrationsensor/ms-agent.sock"
	ProxydSocket = "/run/migrationsensor/proxyd.sock"
)

// Ready tells the health check that this container does what it is for.
func Ready() error {
	if err := os.WriteFile(readyFile, nil, 0o644); err != nil {
		return fmt.Errorf("%w (add to this service in compose.yaml  tmpfs: [\"/run\"])", err)
	}
	return nil
}

// Healthy is the health check of every container: an agent must be connected, a proxyd must answer, another program must have
// said that it is ready.
func Healthy(ctx context.Context) error {
	if _, err := os.Stat(AgentSocket); err == nil {
		var st fleet.AgentStatus
		if err := fleet.Control(ctx, AgentSocket, "GET", "/status", &st); err != nil {
			return err
		}
		if st.State != "connected" || len(st.Protected) == 0 {
			return fmt.Errorf("the agent is %q (%s) and protects %d addresses", st.State, st.Why, len(st.Protected))
		}
		return nil
	}
	if _, err := os.Stat(ProxydSocket); err == nil {
		var st fleet.ProxyStatus
		return fleet.Control(ctx, ProxydSocket, "GET", "/status", &st)
	}
	if _, err := os.Stat(readyFile); err != nil {
		return errors.New("not ready yet")
	}
	return nil
}
