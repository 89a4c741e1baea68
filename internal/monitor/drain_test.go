package monitor

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// lostAgent is one whose guest is going down.
type lostAgent struct{ proto.AgentClient }

var errLostAgent = errors.New("ttrpc: closed")

func (lostAgent) Drain(context.Context, *proto.DrainRequest) (*proto.Empty, error) {
	return nil, errLostAgent
}

// What ends has drained: to ask for it meanwhile is no error. An agent that
// fails in a machine that goes on is one.
func TestDrainOfWhatEnds(t *testing.T) {
	home := state.Home{Sandboxes: filepath.Join(t.TempDir(), "sandboxes")}
	d, lock, err := home.Create("box", struct{}{}, false)
	require.NoError(t, err)
	defer lock.Close()
	for name, tt := range map[string]struct {
		happens func(*monitor)
		want    error
	}{
		"lives":          {func(*monitor) {}, errLostAgent},
		"switched off":   {func(m *monitor) { m.link.off() }, nil},
		"has ended":      {func(m *monitor) { close(m.link.machineEnded) }, nil},
		"has been ended": {func(m *monitor) { m.link.off(); m.final = true }, nil},
	} {
		m := &monitor{dir: d, link: newLink(nil, nil), log: slog.New(slog.DiscardHandler), stops: newStops()}
		m.link.agent = lostAgent{}
		tt.happens(m)
		require.ErrorIs(t, m.drain(), tt.want, name)
		m.link.off()
	}
}
