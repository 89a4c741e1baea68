package ociroot

import (
	"context"
	"io"
	"testing"

	erofs "github.com/erofs/go-erofs"
	"github.com/stretchr/testify/require"
)

// content reads a file of an image's root.
func rootFile(t testing.TB, s *Store, im *Image, name string) (string, error) {
	t.Helper()
	f, err := s.OpenRoot(context.Background(), im)
	require.NoError(t, err)
	defer f.Close()
	fsys, err := erofs.Open(f)
	require.NoError(t, err)
	g, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer g.Close()
	data, err := io.ReadAll(g)
	require.NoError(t, err)
	return string(data), nil
}

func TestPull(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ref := r.push(t, "lib/sample:v1", sample(t))
	im := pull(t, s, ref, anonymous())
	require.Equal(t, ref, im.Ref)
	require.Equal(t, mustHash(t, sample(t).Digest).String(), im.Digest)
	require.Equal(t, []string{"PATH=/bin", "A=b=c"}, im.Config.Env)
	require.Len(t, im.Layers, 3)
	text, err := rootFile(t, s, im, "etc/os-release")
	require.NoError(t, err)
	require.Equal(t, "NAME=Sample\n", text)
	text, err = rootFile(t, s, im, "big")
	require.NoError(t, err)
	require.Equal(t, noise(1, 300_000), text)
	_, err = rootFile(t, s, im, "gone")
	require.Error(t, err)

	// A second pull needs no registry, and neither does one by another store.
	r.reset()
	again := pull(t, s, ref, anonymous())
	require.Zero(t, r.count(""))
	require.Equal(t, im.Digest, again.Digest)
	require.Equal(t, im.Size, again.Size)
}
