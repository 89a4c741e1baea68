package monitor

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

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

// drainingAgent drains and has commands that do not end.
type drainingAgent struct {
	proto.AgentClient
	asked, awaited atomic.Int32
}

func (a *drainingAgent) Drain(ctx context.Context, r *proto.DrainRequest) (*proto.Empty, error) {
	if !r.GetWait() {
		a.asked.Add(1)
		return &proto.Empty{}, nil
	}
	a.awaited.Add(1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// A drain that could not be written down is awaited all the same, and done anew
// when it is asked for again.
func TestDrainThatIsNotWrittenDown(t *testing.T) {
	home := state.Home{Sandboxes: filepath.Join(t.TempDir(), "sandboxes")}
	d, lock, err := home.Create("box", struct{}{}, false)
	require.NoError(t, err)
	defer lock.Close()
	agent := &drainingAgent{}
	m := &monitor{dir: d, link: newLink(nil, nil), log: slog.New(slog.DiscardHandler), stops: newStops()}
	m.link.agent = agent
	defer m.link.off()
	defer close(m.link.machineEnded)
	away := d.Path + ".away"
	require.NoError(t, os.Rename(d.Path, away))
	require.ErrorIs(t, m.drain(), fs.ErrNotExist)
	require.NoError(t, os.Rename(away, d.Path))
	require.NoError(t, m.drain())
	require.NoError(t, m.drain(), "once more changes nothing")
	require.EqualValues(t, 2, agent.asked.Load())
	require.Equal(t, state.Draining, m.status())
	require.Eventually(t, func() bool { return agent.awaited.Load() == 1 }, 10*time.Second, time.Millisecond)
}
