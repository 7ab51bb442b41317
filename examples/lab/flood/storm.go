package flood

import (
	"fmt"
	"time"
)

// The caps of a storm: as many as a machine can make, for a while.
const (
	MaxStorm     = 10_000_000 // packets per second
	MaxStormTime = time.Minute
	maxStormData = 128 // bytes of a payload, a multiple of four
)

// MostStorm as a rate is as many as this machine can make.
const MostStorm = -1

// CheckStorm refuses what a storm must not do. Its sources are a whole /16.
func (c Config) CheckStorm() error {
	rate := c.Rate
	c.Rate = 1
	if err := c.Check(); err != nil {
		return err
	}
	if rate != MostStorm && (rate < 1000 || rate > MaxStorm) {
		return fmt.Errorf("%w: a storm of %d packets/s: use 1000 to %d, or %d for as many as there can be", ErrRefused, rate, MaxStorm, MostStorm)
	}
	size := c.Size
	if len(c.Data) > 0 {
		size = len(c.Data[0])
	}
	switch {
	case c.Kind != SYN || !c.Target.Addr().Is4():
		return fmt.Errorf("%w: a storm of kind %s to %s: it sends SYNs over IPv4", ErrRefused, c.Kind, c.Target)
	case c.Sources.Bits() != 16:
		return fmt.Errorf("%w: a storm from %s: its sources are a /16", ErrRefused, c.Sources)
	case c.Time > MaxStormTime:
		return fmt.Errorf("%w: a storm of %v: use up to %v", ErrRefused, c.Time, MaxStormTime)
	case size%4 != 0 || size > maxStormData:
		return fmt.Errorf("%w: a storm with payloads of %d bytes: use a multiple of 4 up to %d", ErrRefused, size, maxStormData)
	case c.Ports != 0:
		return fmt.Errorf("%w: a storm from %d ports: it uses its own", ErrRefused, c.Ports)
	}
	return nil
}

// Storm is what came of a storm.
type Storm struct {
	Result
	CPU time.Duration // of the thread that sent, with what receivers did on it
}
