package ociroot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
)

// Names cost little in an archive, and a change of index.json each in the
// cache, which has room for so many.
func TestLoadOfManyNames_Row31(t *testing.T) {
	layer := tarOf(t, file{name: "f", data: "x"})
	config := fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["%s"]}}`, digestOf(layer))
	var entries []dockerEntry
	for i := range maxArchiveImage {
		e := dockerEntry{Config: "c.json", Layers: []string{"l.tar"}}
		for j := range maxArchiveNames/maxArchiveImage + 1 {
			e.RepoTags = append(e.RepoTags, fmt.Sprintf("a:%d-%d", i, j))
		}
		entries = append(entries, e)
	}
	manifest, err := json.Marshal(entries)
	require.NoError(t, err)
	s := newStore(t, Options{})
	_, err = s.Load(context.Background(), bytes.NewReader(archived(t,
		file{name: "c.json", data: config}, file{name: "l.tar", data: string(layer)}, file{name: "manifest.json", data: string(manifest)})), LoadOptions{})
	require.ErrorIs(t, err, ErrLimit)
	list, err := s.List(context.Background())
	require.NoError(t, err)
	require.Empty(t, list)
}

// An index.json that would be too large to be read is not written, and one whose
// caller is gone neither.
func TestIndexStaysReadable(t *testing.T) {
	s := newStore(t, Options{})
	before, err := s.readIndex()
	require.NoError(t, err)
	huge := *before
	huge.Manifests = []v1.Descriptor{{MediaType: types.MediaType(strings.Repeat("x", maxIndexFile))}}
	require.ErrorIs(t, s.writeIndex(&huge), ErrLimit)
	after, err := s.readIndex()
	require.NoError(t, err)
	require.Equal(t, before, after)

	ctx, cancel := context.WithCancelCause(context.Background())
	reason := errors.New("reason")
	cancel(reason)
	require.ErrorIs(t, s.locked(ctx, func() error { return nil }), reason)
}
