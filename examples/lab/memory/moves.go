package memory

import (
	"context"
	"fmt"
	"time"

	"migrationsensor/proxyd"
)

// moveLimit is how long a planned move's command watches the agents go.
const moveLimit = 25 * time.Second

// Drain has an edge send its agents on and take no others, as before maintenance. It returns when they have gone.
func (w *World) Drain(ctx context.Context, name string) error {
	return w.move(ctx, name, proxyd.MoveRequest{Drain: true})
}

// Undrain puts an edge back into service.
func (w *World) Undrain(ctx context.Context, name string) error {
	return proxyd.ControlUndrain(ctx, w.paths(name).Socket)
}

// Home has an edge send its agents back to the entries among its neighbours. It returns when they have gone.
func (w *World) Home(ctx context.Context, name string) error {
	return w.move(ctx, name, proxyd.MoveRequest{All: true, Entries: true})
}

func (w *World) move(ctx context.Context, name string, req proxyd.MoveRequest) error {
	req.Wait = proxyd.Duration{Duration: moveLimit}
	last, err := proxyd.ControlMove(ctx, w.paths(name).Socket, req, func(proxyd.MoveProgress) {})
	if err == nil && last.Gone < last.Agents {
		err = fmt.Errorf("%d of %d agents are still at %s after %v", last.Agents-last.Gone, last.Agents, name, moveLimit)
	}
	return err
}
