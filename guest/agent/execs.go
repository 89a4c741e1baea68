package agent

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Execs implements the call.
func (a *Agent) Execs(context.Context, *proto.ExecsRequest) (*proto.ExecList, error) {
	return nil, status.Error(codes.Unimplemented, "execs")
}
