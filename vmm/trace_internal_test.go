package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEventKindsHaveNames(t *testing.T) {
	require.Equal(t, "step exit queue needs-reset", EventStep.String()+" "+EventExit.String()+" "+EventQueue.String()+" "+EventNeedsReset.String())
	require.Equal(t, "event 99", EventKind(99).String())
}
