package agent

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Metrics implements the call.
func (a *Agent) Metrics(context.Context, *proto.Empty) (*proto.MetricsResponse, error) {
	return nil, status.Error(codes.Unimplemented, "metrics")
}
