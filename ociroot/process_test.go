package ociroot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// command is a process of childJob.
func command(t testing.TB, job childJob) *exec.Cmd {
	exe, err := os.Executable()
	require.NoError(t, err)
	text, err := json.Marshal(job)
	require.NoError(t, err)
	c := exec.Command(exe)
	c.Env = append(os.Environ(), childEnv+"="+string(text))
	return c
}

// large has six layers of noise, so that a pull takes a while.
func large(t testing.TB) v1.Image {
	var layers []v1.Layer
	for i := range 6 {
		layers = append(layers, gzLayer(t, tarOf(t, file{name: fmt.Sprintf("file%d", i), data: noise(uint64(100+i), 1<<20)})))
	}
	return imageOf(t, layers...)
}

// Eight processes that pull one image at once fetch each blob once.
func TestPull_EightProcesses(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "large:v1", large(t))
	dir := filepath.Join(t.TempDir(), "cache")
	start := time.Now().Add(500 * time.Millisecond)
	var all []*exec.Cmd
	var outs []*bytes.Buffer
	for range 8 {
		c, out := command(t, childJob{Dir: dir, Ref: ref, Start: start}), &bytes.Buffer{}
		c.Stdout, c.Stderr = out, out
		require.NoError(t, c.Start())
		all, outs = append(all, c), append(outs, out)
	}
	for i, c := range all {
		require.NoError(t, c.Wait(), outs[i].String())
		require.Equal(t, outs[0].String(), outs[i].String())
	}
	img := large(t)
	m, err := img.Manifest()
	require.NoError(t, err)
	for _, l := range append(m.Layers, m.Config) {
		require.Equal(t, 1, r.count("GET", "/blobs/"+l.Digest.String()))
	}
	s, err := OpenStore(dir, Options{})
	require.NoError(t, err)
	list, err := s.List(context.Background())
	require.NoError(t, err)
	require.Len(t, list, 1)
	requireExactly(t, s, list...)
}

// requireExactly says that a store's files are these images' and nothing else.
func requireExactly(t testing.TB, s *Store, images ...*Image) {
	t.Helper()
	want := expected(t, images...)
	for _, im := range images {
		m, _, _, err := s.readImage(descriptor{Digest: mustDigest(t, im.Digest), Size: -1})
		require.NoError(t, err)
		want = append(want, "oci/blobs/sha256/"+m.config.Digest.Hex)
	}
	seen := map[string]bool{}
	var unique []string
	for _, w := range want {
		if !seen[w] {
			seen[w] = true
			unique = append(unique, w)
		}
	}
	require.ElementsMatch(t, unique, filesBelow(t, s.dir))
}

func mustDigest(t testing.TB, s string) v1.Hash {
	h, err := v1.NewHash(s)
	require.NoError(t, err)
	return h
}

// slow makes the registry send blobs in small pieces.
func slow(r *testRegistry, gap time.Duration) {
	r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/blobs/") {
			time.Sleep(gap)
		}
		return false
	})
}

// A process that is killed at any moment of a pull leaves a cache in which the
// next pull succeeds, and prune leaves nothing that does not belong there.
func TestPull_Killed(t *testing.T) {
	r := newRegistry(t)
	img := large(t)
	ref := r.push(t, "large:v1", img)
	slow(r, 5*time.Millisecond)

	// How long does one take?
	begin := time.Now()
	out, err := command(t, childJob{Dir: filepath.Join(t.TempDir(), "cache"), Ref: ref}).CombinedOutput()
	require.NoError(t, err, string(out))
	whole := time.Since(begin)

	kills := 50
	if testing.Short() {
		kills = 10
	}
	killed := 0
	for i := range kills {
		dir := filepath.Join(t.TempDir(), "cache")
		// Some caches are hit more than once before a pull may succeed.
		for range 1 + i%3 {
			c := command(t, childJob{Dir: dir, Ref: ref})
			require.NoError(t, c.Start())
			time.Sleep(time.Duration(float64(whole) * rand.Float64()))
			c.Process.Kill()
			var status *exec.ExitError
			if errors.As(c.Wait(), &status) {
				killed++
			}
		}
		s, err := OpenStore(dir, Options{})
		require.NoError(t, err)
		if i%2 == 0 { // prune also cleans up after the dead alone
			_, err = s.Prune(context.Background(), PruneOptions{})
			require.NoError(t, err)
			list, err := s.List(context.Background())
			require.NoError(t, err)
			requireExactly(t, s, list...)
		}
		im := pull(t, s, ref, anonymous())
		text, err := rootFile(t, s, im, "file3")
		require.NoError(t, err)
		require.True(t, text == noise(103, 1<<20))
		_, err = s.Prune(context.Background(), PruneOptions{})
		require.NoError(t, err)
		requireExactly(t, s, im)
		require.NoError(t, os.RemoveAll(dir))
	}
	require.Greater(t, killed, kills/2, "the processes were killed while they pulled")
	t.Logf("%d processes killed in pulls of %v", killed, whole)
}

// The same for a load.
func TestLoad_Killed(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	archive := filepath.Join(t.TempDir(), "large.tar")
	im := pull(t, s, r.push(t, "large:v1", large(t)), anonymous())
	require.NoError(t, os.WriteFile(archive, saved(t, s, FormatOCI, im.Ref), 0o600))
	begin := time.Now()
	require.NoError(t, command(t, childJob{Dir: filepath.Join(t.TempDir(), "cache"), Archive: archive}).Run())
	whole := time.Since(begin)
	for range 10 {
		dir := filepath.Join(t.TempDir(), "cache")
		c := command(t, childJob{Dir: dir, Archive: archive})
		require.NoError(t, c.Start())
		time.Sleep(time.Duration(float64(whole) * rand.Float64()))
		c.Process.Kill()
		c.Wait()
		into, err := OpenStore(dir, Options{})
		require.NoError(t, err)
		_, err = into.Prune(context.Background(), PruneOptions{})
		require.NoError(t, err)
		list, err := into.List(context.Background())
		require.NoError(t, err)
		requireExactly(t, into, list...)
		require.NoError(t, command(t, childJob{Dir: dir, Archive: archive}).Run())
		requireExactly(t, into, im)
	}
}

// After a kill alone, prune removes all that the dead process left.
func TestPrune_AfterKill(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "large:v1", large(t))
	held := make(chan struct{})
	r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/blobs/") && r.count("GET", "/blobs/") > 3 {
			<-held
		}
		return false
	})
	defer close(held)
	dir := filepath.Join(t.TempDir(), "cache")
	c := command(t, childJob{Dir: dir, Ref: ref})
	require.NoError(t, c.Start())
	require.Eventually(t, func() bool { return r.count("GET", "/blobs/") > 3 }, 10*time.Second, time.Millisecond)
	s, err := OpenStore(dir, Options{})
	require.NoError(t, err)

	// A living pull's needs stay.
	before := len(filesBelow(t, filepath.Join(dir, "oci", "blobs"))) + len(filesBelow(t, filepath.Join(dir, "partial")))
	require.NotZero(t, before)
	_, err = s.Prune(context.Background(), PruneOptions{All: true})
	require.NoError(t, err)
	after := len(filesBelow(t, filepath.Join(dir, "oci", "blobs"))) + len(filesBelow(t, filepath.Join(dir, "partial")))
	require.GreaterOrEqual(t, after, before)

	require.NoError(t, c.Process.Kill())
	c.Wait()
	p, err := s.Prune(context.Background(), PruneOptions{})
	require.NoError(t, err)
	require.NotZero(t, p.Bytes)
	requireExactly(t, s)
}

// A root that a process has open stays, whatever is pruned or removed; that of a
// dead process goes.
func TestPrune_OpenRoot(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "sample:v1", sample(t))
	dir := filepath.Join(t.TempDir(), "cache")
	c := command(t, childJob{Dir: dir, Ref: ref, Hold: true})
	stdin, err := c.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	digest := make([]byte, 71)
	_, err = io.ReadFull(stdout, digest)
	require.NoError(t, err)

	ctx := context.Background()
	s, err := OpenStore(dir, Options{})
	require.NoError(t, err)
	_, err = s.Remove(ctx, ref, RemoveOptions{})
	require.ErrorIs(t, err, ErrInUse)
	p, err := s.Prune(ctx, PruneOptions{All: true})
	require.NoError(t, err)
	require.Empty(t, p.Refs)
	_, err = s.Remove(ctx, ref, RemoveOptions{Force: true})
	require.NoError(t, err)
	root := s.rootPath(strings.TrimPrefix(string(digest), "sha256:"))
	require.FileExists(t, root)

	stdin.Close()
	require.NoError(t, c.Wait())
	p, err = s.Prune(ctx, PruneOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{string(digest)}, p.Roots)
	require.NoFileExists(t, root)
	requireExactly(t, s)
}

// A descriptor that a child inherited keeps the root, too, when its parent has
// long closed its own: monitors live so.
func TestPrune_InheritedRoot(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ctx := context.Background()
	im := pull(t, s, r.push(t, "sample:v1", sample(t)), anonymous())
	root, err := s.OpenRoot(ctx, im)
	require.NoError(t, err)
	c := exec.Command("cat")
	stdin, err := c.StdinPipe()
	require.NoError(t, err)
	c.ExtraFiles = []*os.File{root}
	require.NoError(t, c.Start())
	require.NoError(t, root.Close())
	_, err = s.Remove(ctx, im.Ref, RemoveOptions{})
	require.ErrorIs(t, err, ErrInUse)
	_, err = s.Remove(ctx, im.Ref, RemoveOptions{Force: true})
	require.NoError(t, err)
	require.FileExists(t, root.Name())
	stdin.Close()
	require.NoError(t, c.Wait())
	_, err = s.Prune(ctx, PruneOptions{})
	require.NoError(t, err)
	requireExactly(t, s)
}

// A disk or a limit that is too small gives an error that says so, and leaves
// nothing that prune does not remove.
func TestPull_NoRoom(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "large:v1", large(t))
	dir := filepath.Join(t.TempDir(), "cache")
	c := command(t, childJob{Dir: dir, Ref: ref})
	c.Args = []string{"sh", "-c", `ulimit -f 1024; exec "$0"`, c.Path}
	sh, err := exec.LookPath("sh")
	require.NoError(t, err)
	c.Path = sh
	out, err := c.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "file too large (the limit of file sizes")
	s, err := OpenStore(dir, Options{})
	require.NoError(t, err)
	nothingLeft(t, s)
}

// Goroutines of one process exclude each other as processes do, and a prune
// that runs all the time takes nothing away from them.
func TestPull_Goroutines(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ctx := context.Background()
	refs := []string{r.push(t, "large:v1", large(t)), r.push(t, "large:v2", large(t)), r.push(t, "sample:v1", sample(t))}
	stop, pruned := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				pruned <- nil
				return
			default:
			}
			if _, err := s.Prune(ctx, PruneOptions{}); err != nil {
				pruned <- err
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	var g errgroup.Group
	for i := range 12 {
		g.Go(func() error {
			im, err := s.Pull(ctx, refs[i%3], anonymous())
			if err != nil {
				return err
			}
			f, err := s.OpenRoot(ctx, im)
			if err != nil {
				return err
			}
			return f.Close()
		})
	}
	require.NoError(t, g.Wait())
	close(stop)
	require.NoError(t, <-pruned)
	m, err := large(t).Manifest()
	require.NoError(t, err)
	for _, l := range m.Layers { // two names, one image
		require.Equal(t, 1, r.count("GET", "/blobs/"+l.Digest.String()))
	}
	list, err := s.List(ctx)
	require.NoError(t, err)
	require.Len(t, list, 3)
	requireExactly(t, s, list...)
}

// What a pull may take of memory, however large the image is and however many
// entries it has.
func TestPull_Memory(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short")
	}
	r := newRegistry(t)
	var many []file
	for i := range 200_000 {
		many = append(many, file{name: fmt.Sprintf("dir%d/file%d", i%100, i), data: "x"})
	}
	big := tarOf(t, file{name: "noise", data: noise(7, 100<<20)}, file{name: "zeros", data: string(make([]byte, 300<<20))})
	ref := r.push(t, "big:v1", imageOf(t, zstdLayer(t, big), gzLayer(t, tarOf(t, many...))))
	out, err := command(t, childJob{Dir: filepath.Join(t.TempDir(), "cache"), Ref: ref, Memory: true}).CombinedOutput()
	require.NoError(t, err, string(out))
	_, rest, found := strings.Cut(string(out), "VmHWM:")
	require.True(t, found)
	var kib int
	_, err = fmt.Sscan(rest, &kib)
	require.NoError(t, err)
	t.Logf("peak memory: %d MiB", kib>>10)
	require.Less(t, kib>>10, 128)
}

func BenchmarkPull_Warm(b *testing.B) {
	r, s := newRegistry(b), newStore(b, Options{})
	ref := r.push(b, "sample:v1", sample(b))
	pull(b, s, ref, anonymous())
	b.ReportAllocs()
	for b.Loop() {
		im := pull(b, s, ref, anonymous())
		f, err := s.OpenRoot(b.Context(), im)
		require.NoError(b, err)
		f.Close()
	}
}
