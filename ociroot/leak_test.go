package ociroot

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Operations, failed ones too, leave no descriptor and no goroutine behind.
func TestStore_LeaksNothing(t *testing.T) {
	r := newRegistry(t)
	good := r.push(t, "good", sample(t))
	bad := r.push(t, "bad", imageOf(t, &rawLayer{gzipped(t, []byte("no tar")), digestOf([]byte("other")), "application/vnd.oci.image.layer.v1.tar+gzip"}))
	archive := legacy(t, nil)
	ctx := context.Background()
	round := func() {
		s := newStore(t, Options{})
		im := pull(t, s, good, anonymous())
		root, err := s.OpenRoot(ctx, im)
		require.NoError(t, err)
		require.NoError(t, root.Close())
		_, err = s.Pull(ctx, bad, anonymous())
		require.ErrorIs(t, err, ErrContent)
		_, err = s.Pull(ctx, r.host+"/missing", anonymous())
		require.Error(t, err)
		_, err = s.Load(ctx, bytes.NewReader(archive), LoadOptions{})
		require.NoError(t, err)
		_, err = s.Load(ctx, bytes.NewReader(archive[:len(archive)/2]), LoadOptions{})
		require.ErrorIs(t, err, ErrContent)
		_, err = s.Import(ctx, strings.NewReader("no tar, and not gzip"), "x", ImportOptions{})
		require.ErrorIs(t, err, ErrContent)
		require.NoError(t, s.Save(ctx, &bytes.Buffer{}, FormatOCI, good))
		_, err = s.Prune(ctx, PruneOptions{All: true})
		require.NoError(t, err)
	}
	count := func() (fds, goroutines int) {
		http.DefaultClient.CloseIdleConnections()
		list, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(list), runtime.NumGoroutine()
	}
	round()
	time.Sleep(100 * time.Millisecond)
	fds, goroutines := count()
	for range 10 {
		round()
	}
	require.Eventually(t, func() bool {
		f, g := count()
		return f <= fds+2 && g <= goroutines+4 // connections that the server has yet to close
	}, 10*time.Second, 20*time.Millisecond)
}
