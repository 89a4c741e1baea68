package agent

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// maxRecord is the longest record that /dev/kmsg takes whole.
const maxRecord = 900

// kmsgHandler writes records to the kernel's log: one write each, with the
// level that dmesg knows, attributes as key=value.
type kmsgHandler struct {
	mu     *sync.Mutex
	w      io.Writer
	prefix string // attributes of With, formatted
}

func newKmsgHandler(w io.Writer) *kmsgHandler { return &kmsgHandler{mu: new(sync.Mutex), w: w} }

// Enabled implements slog.Handler.
func (h *kmsgHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// Handle implements slog.Handler.
func (h *kmsgHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("<3>")
	case r.Level >= slog.LevelWarn:
		b.WriteString("<4>")
	default:
		b.WriteString("<6>")
	}
	b.WriteString("sandpit-agent: ")
	b.WriteString(r.Message)
	b.WriteString(h.prefix)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, a)
		return b.Len() < maxRecord
	})
	s := strings.Map(func(c rune) rune {
		if c == '\n' || c == '\t' {
			return ' '
		}
		return c
	}, b.String())
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, s[:min(len(s), maxRecord)]+"\n")
	return err
}

func writeAttr(b *strings.Builder, a slog.Attr) {
	b.WriteByte(' ')
	b.WriteString(a.Key)
	b.WriteByte('=')
	b.WriteString(a.Value.Resolve().String())
}

// WithAttrs implements slog.Handler.
func (h *kmsgHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	b.WriteString(h.prefix)
	for _, a := range attrs {
		writeAttr(&b, a)
	}
	return &kmsgHandler{mu: h.mu, w: h.w, prefix: b.String()}
}

// WithGroup implements slog.Handler; groups are not shown.
func (h *kmsgHandler) WithGroup(string) slog.Handler { return h }
