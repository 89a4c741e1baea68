package monitor

import (
	"context"
	"errors"
	"fmt"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// setUp calls the agent's Setup, until the machine's end, a request to stop, or
// ctx. A guest that takes nothing off its socket keeps the call from returning
// whatever ctx says, so nobody waits for it: the machine's end frees it.
func (m *monitor) setUp(ctx context.Context, req *proto.SetupRequest) (*proto.SetupResponse, error) {
	type result struct {
		resp *proto.SetupResponse
		err  error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := m.link.agent.Setup(ctx, req)
		done <- result{resp, err}
	}()
	select {
	case r := <-done:
		return r.resp, r.err
	case <-m.link.machineEnded:
		return nil, errors.New("the guest ended")
	case stop := <-m.stops.graceful:
		return nil, errors.New(stop.detail)
	case stop := <-m.stops.now:
		return nil, errors.New(stop.detail)
	case <-ctx.Done():
		return nil, fmt.Errorf("the agent did not answer in time: %w", ctx.Err())
	}
}
