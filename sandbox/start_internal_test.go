package sandbox

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/defaultroot"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// An upper belongs to the image that it was made over: one of another version
// of this program is not taken for it.
func TestReopenRoot_OtherDefaultImage(t *testing.T) {
	home := state.Home{Sandboxes: t.TempDir(), Cache: t.TempDir()}
	digest := defaultroot.Image().Digest()
	root, err := reopenRoot(context.Background(), home, nil, record{DefaultImage: digest})
	require.NoError(t, err)
	root.close()
	_, err = reopenRoot(context.Background(), home, nil, record{DefaultImage: strings.Repeat("0", 64)})
	require.ErrorContains(t, err, "another version of this program (000000000000, not "+digest[:12])
}
