package netstack

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/log"
)

// gvisorLog takes what gVisor would print to stderr. Its logger is one for the whole process, so the last
// stack's logger gets it.
type gvisorLog struct{ to atomic.Pointer[slog.Logger] }

var gvisor gvisorLog

func init() { log.SetTarget(&gvisor) } // here because SetTarget must not run beside a log call

func setGVisorLog(l *slog.Logger) { gvisor.to.Store(l) }

// Emit implements log.Emitter. gVisor's own levels are tuned for a sandbox; to us all of it is for developers.
func (g *gvisorLog) Emit(_ int, level log.Level, _ time.Time, format string, v ...any) {
	if l := g.to.Load(); l != nil {
		l.Debug("gvisor", "level", level.String(), "text", fmt.Sprintf(format, v...))
	}
}
