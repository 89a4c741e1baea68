package agent

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Commands wait for the end of a hold, and patches end with it.
func TestPatch_OnlyBeforeCommands(t *testing.T) {
	g := newGuest(t, "plain", &proto.SetupRequest{Hold: true})
	_, err := g.start(&proto.ExecStart{Args: []string{"true"}}, nil, nil)
	require.ErrorContains(t, err, "not set up yet")

	agent := g.client()
	_, err = agent.Patch(g.ctx(), &proto.PatchRequest{Kind: proto.PatchRequest_APPEND, Path: "/none"})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	_, err = agent.Patch(g.ctx(), &proto.PatchRequest{Done: true})
	require.NoError(t, err)
	require.Zero(t, g.run(&proto.ExecStart{Args: []string{"true"}}).exit.Code)
	_, err = agent.Patch(g.ctx(), &proto.PatchRequest{Kind: proto.PatchRequest_REMOVE, Path: "/none"})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
}
