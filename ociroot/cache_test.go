package ociroot

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"
)

func TestOpenStore(t *testing.T) {
	for _, c := range []struct {
		dir string
		o   Options
	}{{"relative", Options{}}, {"", Options{}}, {t.TempDir(), Options{Downloads: -1}}, {t.TempDir(), Options{StallTimeout: -1}}} {
		_, err := OpenStore(c.dir, c.o)
		require.ErrorIs(t, err, ErrOptions)
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	s, err := OpenStore(dir, Options{})
	require.NoError(t, err)
	requireExactly(t, s)
	fi, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
	require.NoError(t, os.Chmod(dir, 0o777))
	_, err = OpenStore(dir, Options{})
	require.ErrorIs(t, err, os.ErrPermission)
}

func TestReference(t *testing.T) {
	full, err := Canonical("debian")
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(full, "/library/debian:latest"), full)
	again, err := Canonical(full)
	require.NoError(t, err)
	require.Equal(t, full, again)
	hex := strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"localhost:5000/a/b:v1":              "localhost:5000/a/b:v1",
		"reg.test/a":                         "reg.test/a:latest",
		"reg.test/a:v1@sha256:" + hex:        "reg.test/a@sha256:" + hex,
		"[::1]:5000/a":                       "[::1]:5000/a:latest",
		"reg.test:443/a/b/c/d:with-dash_1.2": "reg.test:443/a/b/c/d:with-dash_1.2",
	} {
		got, err := Canonical(in)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, in := range []string{"", " ", "A/B", "a:", ":a", "a@", "a@sha256:1", "a@md5:" + hex, "a@sha512:" + hex + hex, "http://reg.test/a", "../a", "a/../b",
		"a b", "a//b", "a/-b", "a./b", "./a", "/a", "~/a", "a\x00", "a\n", "reg.test/a?b", "user@reg.test/a", "reg.test/" + strings.Repeat("a", 2000), "-x"} {
		_, err := Canonical(in)
		require.ErrorIs(t, err, ErrReference, "%q", in)
	}
}

func TestPull_Policies(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	one := sample(t)
	ref := r.push(t, "x:v1", one)
	ctx := context.Background()
	o := anonymous()
	o.Policy = PullNever
	_, err := s.Pull(ctx, ref, o)
	require.ErrorIs(t, err, ErrNotCached)
	require.Zero(t, r.count(""))
	o.Policy = "sometimes"
	_, err = s.Pull(ctx, ref, o)
	require.ErrorIs(t, err, ErrOptions)

	first := pull(t, s, ref, anonymous())
	o.Policy = PullNever
	require.Equal(t, first.Digest, pull(t, s, ref, o).Digest)

	// Always asks, and fetches nothing that it has.
	o.Policy = PullAlways
	r.reset()
	require.Equal(t, first.Digest, pull(t, s, ref, o).Digest)
	require.Zero(t, r.count("/blobs/"))
	require.Zero(t, r.count("GET", "/manifests/"))
	require.Equal(t, 1, r.count("HEAD", "/manifests/"))

	// The tag moves: if-missing keeps the old image, always gets the new one, of
	// which only the new layer comes.
	two, err := mutate.AppendLayers(one, gzLayer(t, tarOf(t, file{name: "new", data: "new"})))
	require.NoError(t, err)
	r.push(t, "x:v1", two)
	require.Equal(t, first.Digest, pull(t, s, ref, anonymous()).Digest)
	second := pull(t, s, ref, o)
	require.NotEqual(t, first.Digest, second.Digest)
	require.Equal(t, 2, r.count("GET", "/blobs/"), "a configuration and a layer")
	text, err := rootFile(t, s, second, "new")
	require.NoError(t, err)
	require.Equal(t, "new", text)

	// The old one has no name any more.
	p, err := s.Prune(ctx, PruneOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{first.Digest}, p.Roots)
	requireExactly(t, s, second)

	// A registry that is gone is no obstacle to what is cached.
	r.Close()
	require.Equal(t, second.Digest, pull(t, s, ref, anonymous()).Digest)
	_, err = s.Pull(ctx, ref, o)
	require.Error(t, err)
}

// multi is an index of images for several platforms, and something that is no
// image.
func multi(t testing.TB) (v1.ImageIndex, map[string]v1.Image) {
	images := map[string]v1.Image{}
	ix := v1.ImageIndex(empty.Index)
	for _, p := range []string{"linux/s390x", "linux/arm64/v8", "linux/amd64", "linux/arm/v6", "linux/arm/v7", "windows/amd64"} {
		want, err := ParsePlatform(p)
		require.NoError(t, err)
		img := configured(t, imageOf(t, gzLayer(t, tarOf(t, file{name: "platform", data: p}))), func(c *v1.ConfigFile) {
			c.OS, c.Architecture, c.Variant = want.OS, want.Architecture, want.Variant
		})
		images[p] = img
		ix = mutate.AppendManifests(ix, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: want.OS, Architecture: want.Architecture, Variant: want.Variant},
		}})
	}
	return ix, images
}

func TestPull_Index(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ix, images := multi(t)
	ref := r.push(t, "multi:v1", ix)
	im := pull(t, s, ref, anonymous())
	require.Equal(t, mustHash(t, images["linux/amd64"].Digest).String(), im.Digest)
	source := mustHash(t, ix.Digest)
	require.Equal(t, source.String(), im.Source)
	again := pull(t, s, ref, anonymous())
	require.Equal(t, im.Source, again.Source)

	// By the index's digest and by the manifest's: the same image, from the cache.
	r.reset()
	for _, d := range []string{im.Source, im.Digest} {
		require.Equal(t, im.Digest, pull(t, s, strings.TrimSuffix(ref, ":v1")+"@"+d, anonymous()).Digest)
	}
	require.Zero(t, r.count(""))
	o := anonymous()
	o.Policy = PullAlways
	require.Equal(t, im.Digest, pull(t, s, ref, o).Digest)
	require.Zero(t, r.count("GET", "/manifests/"))

	for wanted, file := range map[string]string{"linux/arm64": "linux/arm64/v8", "linux/arm/v7": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "linux/amd64/v1": "linux/amd64"} {
		p, err := ParsePlatform(wanted)
		require.NoError(t, err)
		o := anonymous()
		o.Platform = p
		text, err := rootFile(t, s, pull(t, s, ref, o), "platform")
		require.NoError(t, err)
		require.Equal(t, file, text)
	}
	o.Platform = Platform{OS: "plan9", Architecture: "mips"}
	_, err := s.Pull(context.Background(), ref, o)
	require.ErrorIs(t, err, ErrPlatform)
	require.Contains(t, err.Error(), "linux/s390x")

	// A single image of another platform.
	other := r.push(t, "other:v1", images["linux/s390x"])
	_, err = s.Pull(context.Background(), other, anonymous())
	require.ErrorIs(t, err, ErrPlatform)
}

func TestParsePlatform(t *testing.T) {
	for _, bad := range []string{"", "linux", "linux/", "/amd64", "a/b/c/d", "linux//v1"} {
		_, err := ParsePlatform(bad)
		require.ErrorIs(t, err, ErrOptions)
	}
}

// Damage to the cache is repaired by the next pull, or reported with the remedy.
func TestPull_Repairs(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	img := sample(t)
	ref := r.push(t, "x", img)
	im := pull(t, s, ref, anonymous())
	hex := mustDigest(t, im.Digest).Hex
	ctx := context.Background()
	never := anonymous()
	never.Policy = PullNever
	layer := s.blobPath(layerOf(t, img, 0))
	garbage := func(path string) {
		if fi, err := os.Stat(path); err == nil {
			require.NoError(t, os.WriteFile(path, make([]byte, fi.Size()), 0o600))
		}
	}
	damages := map[string]func(){
		"root gone":           func() { os.Remove(s.rootPath(hex)) },
		"root cut":            func() { os.Truncate(s.rootPath(hex), 4096) },
		"description gone":    func() { os.Remove(s.infoPath(hex)) },
		"description garbage": func() { garbage(s.infoPath(hex)) },
		"all roots gone":      func() { os.RemoveAll(s.path("roots")); os.Mkdir(s.path("roots"), 0o700) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			damage()
			f, err := s.OpenRoot(ctx, im)
			require.NoError(t, err)
			f.Close()
			damage()
			r.reset()
			again := pull(t, s, ref, never)
			require.Equal(t, im.Size, again.Size)
			require.Zero(t, r.count(""), "the blobs are there")
		})
	}
	worse := map[string]func(){
		"layer gone":       func() { os.Remove(layer); os.Remove(s.rootPath(hex)) },
		"layer damaged":    func() { garbage(layer); os.Remove(s.rootPath(hex)) },
		"layer cut":        func() { os.Truncate(layer, 10); os.Remove(s.rootPath(hex)) },
		"manifest gone":    func() { os.Remove(s.blobPath(mustDigest(t, im.Digest))); os.Remove(s.rootPath(hex)) },
		"manifest damaged": func() { garbage(s.blobPath(mustDigest(t, im.Digest))); os.Remove(s.rootPath(hex)) },
		"all blobs gone":   func() { os.RemoveAll(s.blobDir()); os.Remove(s.rootPath(hex)) },
	}
	for name, damage := range worse {
		t.Run(name, func(t *testing.T) {
			damage()
			_, err := s.OpenRoot(ctx, im)
			require.ErrorIs(t, err, ErrCorrupt)
			require.Contains(t, err.Error(), "pull the image again")
			_, err = s.Pull(ctx, ref, never)
			require.ErrorIs(t, err, ErrNotCached)
			damage()
			again := pull(t, s, ref, anonymous())
			require.Equal(t, im.Size, again.Size)
			text, err := rootFile(t, s, again, "big")
			require.NoError(t, err)
			require.Equal(t, noise(1, 300_000), text)
			_, err = s.Prune(ctx, PruneOptions{})
			require.NoError(t, err)
			requireExactly(t, s, again)
		})
	}
	t.Run("everything gone", func(t *testing.T) {
		require.NoError(t, os.RemoveAll(s.dir))
		pull(t, s, ref, anonymous())
	})
	t.Run("index garbage", func(t *testing.T) {
		garbage(s.indexPath())
		_, err := s.Pull(ctx, ref, anonymous())
		require.ErrorIs(t, err, ErrCorrupt)
		_, err = s.List(ctx)
		require.ErrorIs(t, err, ErrCorrupt)
		_, err = s.Prune(ctx, PruneOptions{})
		require.ErrorIs(t, err, ErrCorrupt, "nothing is collected when it is not known what is needed")
	})
}

func TestListInspectRemove(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ctx := context.Background()
	img := sample(t)
	a, b := r.push(t, "a:v1", img), r.push(t, "b:v1", img)
	other := r.push(t, "c:v1", imageOf(t, gzLayer(t, tarOf(t, file{name: "c", data: "c"}))))
	im := pull(t, s, a, anonymous())
	pull(t, s, b, anonymous())
	third := pull(t, s, other, anonymous())

	list, err := s.List(ctx)
	require.NoError(t, err)
	require.Len(t, list, 3)
	require.Equal(t, []string{a, b, other}, []string{list[0].Ref, list[1].Ref, list[2].Ref})
	require.Equal(t, im.Layers, list[0].Layers)
	require.NotZero(t, list[0].PulledAt)

	for _, name := range []string{a, im.Digest, im.Digest[:19]} {
		got, err := s.Inspect(ctx, name)
		require.NoError(t, err)
		require.Equal(t, im.Digest, got.Digest)
		require.Equal(t, im.Config, got.Config)
	}
	for name, want := range map[string]error{"nothing": ErrNoImage, "sha256:000000000000": ErrNoImage, "sha256:0": ErrReference, "A": ErrReference} {
		_, err := s.Inspect(ctx, name)
		require.ErrorIs(t, err, want)
		_, err = s.Remove(ctx, name, RemoveOptions{})
		require.ErrorIs(t, err, want)
	}

	// One of two names goes, and nothing else.
	p, err := s.Remove(ctx, a, RemoveOptions{Keep: []string{im.Digest}})
	require.NoError(t, err)
	require.Equal(t, []string{a}, p.Refs)
	require.Zero(t, p.Blobs)
	// The last name of something that is kept does not go unless forced, and then
	// the content stays.
	_, err = s.Remove(ctx, b, RemoveOptions{Keep: []string{im.Digest}})
	require.ErrorIs(t, err, ErrInUse)
	_, err = s.Remove(ctx, b, RemoveOptions{Keep: []string{im.Digest}, Force: true})
	require.NoError(t, err)
	requireExactly(t, s, im, third)
	f, err := s.OpenRoot(ctx, &Image{Digest: im.Digest})
	require.NoError(t, err)
	f.Close()
	require.NoError(t, os.Remove(s.rootPath(mustDigest(t, im.Digest).Hex)))
	f, err = s.OpenRoot(ctx, &Image{Digest: im.Digest})
	require.NoError(t, err, "a root that is kept can be made again")
	f.Close()
	_, err = s.Prune(ctx, PruneOptions{})
	require.NoError(t, err)
	requireExactly(t, s, third)

	_, err = s.Prune(ctx, PruneOptions{Keep: []string{"x"}})
	require.ErrorIs(t, err, ErrOptions)
	p, err = s.Prune(ctx, PruneOptions{All: true})
	require.NoError(t, err)
	require.Equal(t, []string{other}, p.Refs)
	requireExactly(t, s)
}

// An image that cannot be read does not hide the others.
func TestList_Broken(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	good := pull(t, s, r.push(t, "a", sample(t)), anonymous())
	bad := pull(t, s, r.push(t, "b", imageOf(t, gzLayer(t, tarOf(t, file{name: "b"})))), anonymous())
	h := mustDigest(t, bad.Digest)
	require.NoError(t, os.Remove(s.blobPath(h)))
	require.NoError(t, os.Remove(s.infoPath(h.Hex)))
	list, err := s.List(context.Background())
	require.ErrorIs(t, err, ErrCorrupt)
	require.Len(t, list, 1)
	require.Equal(t, good.Digest, list[0].Digest)
	_, err = s.Remove(context.Background(), bad.Ref, RemoveOptions{})
	require.NoError(t, err)
	requireExactly(t, s, good)
}

// Events come in order, one at a time, and sum up.
func TestPull_Progress(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	img := sample(t)
	ref := r.push(t, "x:v1", img)
	var events []Event
	o := anonymous()
	o.Progress = func(e Event) { events = append(events, e) }
	im := pull(t, s, ref, o)
	require.Equal(t, EventResolved, events[0].Kind)
	require.Equal(t, im.LayersSize, events[0].Total)
	last := events[len(events)-1]
	require.Equal(t, EventDone, last.Kind)
	require.Equal(t, im.Size, last.Total)
	count := map[EventKind]int{}
	for _, e := range events {
		count[e.Kind]++
		require.Equal(t, ref, e.Ref)
		require.Equal(t, 3, e.Layers)
		require.LessOrEqual(t, e.Done, e.Total)
	}
	require.Equal(t, 3, count[EventDownloaded])
	require.NotZero(t, count[EventConvert])
	require.Zero(t, count[EventCached])
}

// A registry that is busy says when to come back.
func TestPull_RetryAfter(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ref := r.push(t, "x", sample(t))
	n := 0
	r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/manifests/") {
			return false
		}
		if n++; n > 1 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	pull(t, s, ref, anonymous())
	require.Equal(t, 2, r.count("GET", "/manifests/"))
}

// The largest configuration there may be, of bytes that grow when they are
// written down again, is read back.
func TestPull_LargestConfig(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	label := strings.Repeat("\x7f\\", maxConfig/3-2000)
	img := configured(t, imageOf(t, gzLayer(t, tarOf(t, file{name: "a"}))), func(c *v1.ConfigFile) {
		c.Config.Labels = map[string]string{"l": label}
	})
	ref := r.push(t, "x", img)
	im := pull(t, s, ref, anonymous())
	require.True(t, im.Config.Labels["l"] == label)
	r.Close()
	again := pull(t, s, ref, anonymous())
	require.True(t, again.Config.Labels["l"] == label)

	// Unescaped in the original: written with HTML in mind it is six times as long.
	raw := `{"os":"linux","architecture":"amd64","config":{"Labels":{"l":"` + strings.Repeat("<", maxConfig-1000) + `"}},"rootfs":{"type":"layers","diff_ids":["` +
		digestOf(tarOf(t, file{name: "a"})).String() + `"]}}`
	c, _, err := parseConfig([]byte(raw), 1)
	require.NoError(t, err)
	h := digestOf([]byte("m"))
	data, err := json.Marshal(rootInfo{Format: rootFormat, Digest: h.String(), Config: c})
	require.NoError(t, err)
	require.Greater(t, len(data), 16<<20)
	require.NoError(t, s.replace(s.infoPath(h.Hex), data))
	require.NoError(t, s.replace(s.rootPath(h.Hex), nil))
	info, err := s.readInfo(h.Hex)
	require.NoError(t, err)
	require.Len(t, info.Config.Labels["l"], maxConfig-1000)
}
