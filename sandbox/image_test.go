package sandbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// importImage makes an image of one file.
func importImage(t *testing.T, name string) *sandbox.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(name))}))
	_, err := w.Write([]byte(name))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	im, err := sandbox.ImportImage(context.Background(), &b, name, sandbox.ImportOptions{
		Config: sandbox.ImageConfig{Env: []string{"A=1"}, Cmd: []string{"/run"}},
	})
	require.NoError(t, err)
	return im
}

// The image of a sandbox that does not run is not garbage.
func TestImagesOfStoppedSandboxesStay(t *testing.T) {
	home := newHome(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	ctx := context.Background()
	kept, other := importImage(t, "localhost/kept"), importImage(t, "localhost/other")
	require.Equal(t, []string{"A=1"}, kept.Config.Env)
	dir := filepath.Join(home, "stopped")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"config":{},"image_digest":%q}`, kept.Digest), 0o600))

	_, err := sandbox.RemoveImage(ctx, "localhost/kept", false)
	require.ErrorIs(t, err, sandbox.ErrImageInUse)
	pruned, err := sandbox.PruneImages(ctx, true)
	require.NoError(t, err)
	require.Equal(t, []string{other.Ref}, pruned.Refs)
	images, err := sandbox.Images(ctx)
	require.NoError(t, err)
	require.Len(t, images, 1)
	require.Equal(t, kept.Digest, images[0].Digest)

	// One whose record cannot be read may have any image.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o600))
	_, err = sandbox.PruneImages(ctx, true)
	require.ErrorContains(t, err, "stopped")
	require.NoError(t, os.RemoveAll(dir))
	_, err = sandbox.RemoveImage(ctx, "localhost/kept", false)
	require.NoError(t, err)
	_, err = sandbox.InspectImage(ctx, "localhost/kept")
	require.ErrorIs(t, err, sandbox.ErrNoImage)
}
