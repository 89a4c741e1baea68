package monitor

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

func TestPossible(t *testing.T) {
	const memory = 512 << 20
	good := func() *proto.MetricsResponse {
		return &proto.MetricsResponse{MemoryTotal: 480 << 20, MemoryAvailable: 400 << 20, RootTotal: 4 << 30, RootFree: 4 << 30, Processes: 7, OomKills: 1}
	}
	g, err := possible(good(), memory)
	require.NoError(t, err)
	require.Equal(t, &GuestMetrics{MemoryTotal: 480 << 20, MemoryAvailable: 400 << 20, RootTotal: 4 << 30, RootFree: 4 << 30, Processes: 7, OOMKills: 1}, g)
	for name, spoil := range map[string]func(*proto.MetricsResponse){
		"more memory than it has":   func(r *proto.MetricsResponse) { r.MemoryTotal = memory + 1 },
		"no memory":                 func(r *proto.MetricsResponse) { r.MemoryTotal = 0 },
		"more available than there": func(r *proto.MetricsResponse) { r.MemoryAvailable = r.MemoryTotal + 1 },
		"more free than there":      func(r *proto.MetricsResponse) { r.RootFree = 1<<64 - 1 },
	} {
		r := good()
		spoil(r)
		_, err := possible(r, memory)
		require.ErrorContains(t, err, "the guest's agent says", name)
	}
	_, err = possible(nil, memory)
	require.Error(t, err)
}

func TestResident(t *testing.T) {
	n, err := resident([]byte("100 3 2 1 0 1 0\n"))
	require.NoError(t, err)
	require.EqualValues(t, 3*os.Getpagesize(), n)
	for _, bad := range []string{"", "1", "a b"} {
		_, err := resident([]byte(bad))
		require.Error(t, err)
	}
}

// agentOf answers Metrics in a way of its own.
type agentOf struct {
	proto.AgentClient
	metrics func(context.Context) (*proto.MetricsResponse, error)
}

func (a agentOf) Metrics(ctx context.Context, _ *proto.Empty) (*proto.MetricsResponse, error) {
	return a.metrics(ctx)
}

// A guest that does not answer costs its callers their patience and one
// goroutine; one that answers with an error has that shortened.
func TestAskGuest(t *testing.T) {
	_, c, m := testControl(t)
	m.spec = &Spec{Memory: 512 << 20}
	m.link = newLink(nil, nil)
	calls, release := make(chan struct{}, 100), make(chan struct{})
	m.link.agent = agentOf{metrics: func(context.Context) (*proto.MetricsResponse, error) {
		calls <- struct{}{}
		<-release // whatever its context says
		return &proto.MetricsResponse{MemoryTotal: 1, Processes: 9}, nil
	}}
	errs := make(chan error)
	for range 5 {
		go func() {
			_, err := c.metrics(false)
			errs <- err
		}()
	}
	for range 5 {
		require.ErrorContains(t, <-errs, "did not answer within 2s")
	}
	require.Len(t, calls, 1)
	close(release)
	require.Eventually(t, func() bool { return len(c.asking) == 0 }, 10*time.Second, time.Millisecond)
	resp, err := c.askGuest()
	require.NoError(t, err)
	require.EqualValues(t, 9, resp.GetProcesses())

	m.link.agent = agentOf{metrics: func(context.Context) (*proto.MetricsResponse, error) {
		return nil, errors.New(string(make([]byte, 1<<20)))
	}}
	_, err = c.askGuest()
	require.ErrorContains(t, err, "has no metrics")
	require.Less(t, len(err.Error()), maxDetail+100)

	// The agent goes before its machine does; or the machine stays.
	m.link.agent = agentOf{metrics: func(context.Context) (*proto.MetricsResponse, error) { return nil, ttrpc.ErrClosed }}
	_, err = c.askGuest()
	require.ErrorContains(t, err, "the guest goes on")
	asked := make(chan struct{})
	m.link.agent = agentOf{metrics: func(context.Context) (*proto.MetricsResponse, error) {
		close(asked)
		return nil, ttrpc.ErrClosed
	}}
	go func() {
		_, err := c.askGuest()
		errs <- err
	}()
	<-asked

	// The machine's end.
	m.link.agent = agentOf{metrics: func(ctx context.Context) (*proto.MetricsResponse, error) {
		m.link.switchOff()
		close(m.link.machineEnded)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	_, err = c.askGuest()
	require.ErrorIs(t, err, errEnded)
	require.ErrorIs(t, <-errs, errEnded)
}
