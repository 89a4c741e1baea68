package virtio

import (
	"log/slog"
	"sync"
	"time"
)

// guestLog logs what a guest can provoke: one line a second at most (T86).
type guestLog struct {
	log *slog.Logger

	mu         sync.Mutex // guards what follows
	last       time.Time
	suppressed int
}

func newGuestLog(log *slog.Logger) *guestLog {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &guestLog{log: log}
}

func (g *guestLog) warn(msg string, args ...any) {
	g.mu.Lock()
	now := time.Now()
	if !g.last.IsZero() && now.Sub(g.last) < time.Second {
		g.suppressed++
		g.mu.Unlock()
		return
	}
	g.last = now
	if g.suppressed > 0 {
		args = append(args, "suppressed", g.suppressed)
		g.suppressed = 0
	}
	g.mu.Unlock()
	g.log.Warn(msg, args...)
}
