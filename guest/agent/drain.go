package agent

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Drain implements the call.
func (a *Agent) Drain(context.Context, *proto.Empty) (*proto.Empty, error) {
	return nil, status.Error(codes.Unimplemented, "drain")
}
