package ociroot

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// archived is a tar archive of these files; a name "A -> B" is a symbolic link.
func archived(t testing.TB, files ...file) []byte { return tarOf(t, files...) }

func saved(t testing.TB, s *Store, f Format, names ...string) []byte {
	var b bytes.Buffer
	require.NoError(t, s.Save(context.Background(), &b, f, names...))
	return b.Bytes()
}

func TestSaveLoad(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ctx := context.Background()
	img := sample(t)
	a, b := r.push(t, "a:v1", img), r.push(t, "b:v2", img)
	c := r.push(t, "c:v3", imageOf(t, gzLayer(t, tarOf(t, file{name: "c", data: "c"}))))
	im := pull(t, s, a, anonymous())
	pull(t, s, b, anonymous())
	third := pull(t, s, c, anonymous())
	for _, f := range []Format{FormatOCI, FormatDocker} {
		data := saved(t, s, f, a, b, c)
		require.Equal(t, data, saved(t, s, f, a, b, c), "same images, same bytes")
		for packing, packed := range map[string][]byte{"plain": data, "gzip": gzipped(t, data), "zstd": zstded(t, data)} {
			t.Run(string(f)+" "+packing, func(t *testing.T) {
				into := newStore(t, Options{})
				list, err := into.Load(ctx, iotest.HalfReader(bytes.NewReader(packed)), LoadOptions{})
				require.NoError(t, err)
				require.Len(t, list, 3)
				require.Equal(t, []string{a, b, c}, []string{list[0].Ref, list[1].Ref, list[2].Ref})
				for i, want := range []*Image{im, im, third} {
					require.Equal(t, want.Config, list[i].Config)
					require.Equal(t, want.Layers, list[i].Layers)
					if f == FormatOCI {
						require.Equal(t, want.Digest, list[i].Digest)
					}
				}
				text, err := rootFile(t, into, list[0], "etc/top")
				require.NoError(t, err)
				require.Equal(t, "top", text)
				requireExactly(t, into, list...)
				// Loaded is as good as pulled.
				never := PullOptions{Policy: PullNever}
				require.Equal(t, list[2].Digest, pull(t, into, c, never).Digest)
			})
		}
	}
	var out bytes.Buffer
	require.ErrorIs(t, s.Save(ctx, &out, "ova", a), ErrOptions)
	require.ErrorIs(t, s.Save(ctx, &out, FormatOCI), ErrOptions)
	require.ErrorIs(t, s.Save(ctx, &out, FormatOCI, "nothing"), ErrNoImage)
	full := errors.New("disk full")
	require.ErrorIs(t, s.Save(ctx, failing{full}, FormatOCI, a), full)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
func (f failing) Read([]byte) (int, error)  { return 0, f.err }

// An archive as go-containerregistry writes it: Docker's form with its own names.
func TestLoad_OtherWriter(t *testing.T) {
	s := newStore(t, Options{})
	img := imageOf(t, gzLayer(t, tarOf(t, file{name: "a", data: "a"})), gzLayer(t, tarOf(t, file{name: "b", data: "b"})))
	tag, err := name.NewTag("reg.test/x:v1")
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, tarball.Write(tag, img, &b))
	list, err := s.Load(context.Background(), &b, LoadOptions{})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "reg.test/x:v1", list[0].Ref)
}

// legacy is an archive as old versions of Docker write it: a directory a layer,
// a link where two layers are the same.
func legacy(t testing.TB, edit func(map[string]string)) []byte {
	layer := string(tarOf(t, file{name: "a", data: "a"}))
	diff := digestOf([]byte(layer)).String()
	files := map[string]string{
		"config.json":   `{"os":"linux","architecture":"amd64","config":{"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["` + diff + `","` + diff + `"]}}`,
		"one/layer.tar": layer,
		"one/VERSION":   "1.0",
		"one/json":      "{}",
		"two/layer.tar": "-> ../one/layer.tar",
		"repositories":  "{}",
		"manifest.json": `[{"Config":"config.json","RepoTags":["reg.test/x:v1"],"Layers":["one/layer.tar","two/layer.tar"]}]`,
	}
	if edit != nil {
		edit(files)
	}
	var list []file
	for _, name := range []string{"two/layer.tar", "one/json", "one/VERSION", "repositories", "config.json", "manifest.json", "one/layer.tar", "extra"} {
		data, ok := files[name]
		if !ok {
			continue
		}
		if link, isLink := strings.CutPrefix(data, "-> "); isLink {
			list = append(list, file{name: name, link: link})
		} else {
			list = append(list, file{name: "./" + name, data: data})
		}
	}
	return archived(t, list...)
}

func TestLoad_Legacy(t *testing.T) {
	s := newStore(t, Options{})
	list, err := s.Load(context.Background(), bytes.NewReader(legacy(t, nil)), LoadOptions{})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "reg.test/x:v1", list[0].Ref)
	require.Equal(t, []string{"sh"}, list[0].Config.Cmd)
	requireExactly(t, s, list...)

	// A name of the caller's, and none at all.
	list, err = s.Load(context.Background(), bytes.NewReader(legacy(t, nil)), LoadOptions{Name: "other/name"})
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(list[0].Ref, "/other/name:latest"))
	into := newStore(t, Options{})
	unnamed := legacy(t, func(m map[string]string) {
		m["manifest.json"] = strings.Replace(m["manifest.json"], `["reg.test/x:v1"]`, "null", 1)
	})
	list, err = into.Load(context.Background(), bytes.NewReader(unnamed), LoadOptions{})
	require.NoError(t, err)
	require.Equal(t, "", list[0].Ref)
	got, err := into.Inspect(context.Background(), list[0].Digest)
	require.NoError(t, err)
	require.Equal(t, list[0].Digest, got.Digest)
	_, err = into.Prune(context.Background(), PruneOptions{})
	require.NoError(t, err)
	requireExactly(t, into, got)
	_, err = into.Remove(context.Background(), got.Digest, RemoveOptions{})
	require.NoError(t, err)
	requireExactly(t, into)
}

func TestLoad_Row30_Hostile(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(map[string]string)
		want error
	}{
		"no manifest":      {func(m map[string]string) { delete(m, "manifest.json") }, ErrMalformed},
		"manifest":         {func(m map[string]string) { m["manifest.json"] = "{}" }, ErrMalformed},
		"no image":         {func(m map[string]string) { m["manifest.json"] = "[]" }, ErrMalformed},
		"empty image":      {func(m map[string]string) { m["manifest.json"] = "[{}]" }, ErrMalformed},
		"many images":      {func(m map[string]string) { m["manifest.json"] = "[" + strings.Repeat(`{"Layers":["a"]},`, 300) + "{}]" }, ErrLimit},
		"manifest too big": {func(m map[string]string) { m["manifest.json"] = strings.Repeat(" ", maxManifest+1) }, ErrLimit},
		"no config":        {func(m map[string]string) { delete(m, "config.json") }, ErrMalformed},
		"config garbage":   {func(m map[string]string) { m["config.json"] = "{" }, ErrMalformed},
		"config too big":   {func(m map[string]string) { m["config.json"] = strings.Repeat(" ", maxConfig+1) }, ErrLimit},
		"no layer":         {func(m map[string]string) { delete(m, "one/layer.tar") }, ErrMalformed},
		"link to itself":   {func(m map[string]string) { m["two/layer.tar"] = "-> layer.tar" }, ErrMalformed},
		"link out":         {func(m map[string]string) { m["two/layer.tar"] = "-> ../../../../etc/passwd" }, ErrMalformed},
		"absolute link":    {func(m map[string]string) { m["two/layer.tar"] = "-> /etc/passwd" }, ErrMalformed},
		"host's file": {func(m map[string]string) {
			m["manifest.json"] = strings.Replace(m["manifest.json"], "config.json", "/etc/passwd", 1)
		}, ErrMalformed},
		"name": {func(m map[string]string) {
			m["manifest.json"] = strings.Replace(m["manifest.json"], "reg.test/x", "../x", 1)
		}, ErrMalformed},
		"wrong diffID":      {func(m map[string]string) { m["one/layer.tar"] = string(tarOf(t, file{name: "b"})) }, ErrDigest},
		"other platform":    {func(m map[string]string) { m["config.json"] = strings.Replace(m["config.json"], "amd64", "s390x", 1) }, ErrPlatform},
		"large":             {func(m map[string]string) { m["extra"] = string(make([]byte, 80<<20)) }, ErrLimit},
		"layer not a layer": {func(m map[string]string) { m["one/layer.tar"] = "no tar" }, ErrContent},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			data := legacy(t, c.edit)
			_, err := s.Load(context.Background(), bytes.NewReader(data), LoadOptions{Limits: flatten.Limits{Bytes: 1 << 20, Entries: 1000}})
			require.ErrorIs(t, err, c.want)
			t.Log(err)
			nothingLeft(t, s)
		})
	}
}

// layoutOf is an OCI archive that a test may spoil.
func layoutOf(t testing.TB, edit func(map[string]string)) []byte {
	r, s := newRegistry(t), newStore(t, Options{})
	ref := r.push(t, "x:v1", imageOf(t, gzLayer(t, tarOf(t, file{name: "a", data: "a"}))))
	pull(t, s, ref, anonymous())
	files := map[string]string{}
	var order []string
	tr := tar.NewReader(bytes.NewReader(saved(t, s, FormatOCI, ref)))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		data, err := io.ReadAll(tr)
		require.NoError(t, err)
		files[h.Name] = string(data)
		order = append(order, h.Name)
	}
	edit(files)
	var list []file
	for _, n := range order {
		if data, ok := files[n]; ok {
			list = append(list, file{name: n, data: data})
		}
	}
	return archived(t, list...)
}

func TestLoad_HostileLayout(t *testing.T) {
	blob := func(m map[string]string, f func(name, data string) bool) string {
		for n, d := range m {
			if strings.HasPrefix(n, "blobs/") && f(n, d) {
				return n
			}
		}
		t.Fatal("no such blob")
		return ""
	}
	isManifest := func(_, d string) bool { return strings.Contains(d, `"layers"`) }
	isConfig := func(_, d string) bool { return strings.Contains(d, `"diff_ids"`) }
	isLayer := func(_, d string) bool { return strings.HasPrefix(d, "\x1f\x8b") }
	for name, c := range map[string]struct {
		edit func(map[string]string)
		want error
	}{
		"no index":        {func(m map[string]string) { delete(m, "index.json") }, ErrMalformed},
		"index garbage":   {func(m map[string]string) { m["index.json"] = `{"manifests":7}` }, ErrMalformed},
		"empty index":     {func(m map[string]string) { m["index.json"] = `{"schemaVersion":2,"manifests":[]}` }, ErrMalformed},
		"no manifest":     {func(m map[string]string) { delete(m, blob(m, isManifest)) }, ErrMalformed},
		"no config":       {func(m map[string]string) { delete(m, blob(m, isConfig)) }, ErrMalformed},
		"no layer":        {func(m map[string]string) { delete(m, blob(m, isLayer)) }, ErrMalformed},
		"wrong layer":     {func(m map[string]string) { m[blob(m, isLayer)] = "x" }, ErrDigest},
		"wrong manifest":  {func(m map[string]string) { m[blob(m, isManifest)] += " " }, ErrDigest},
		"name of the tag": {func(m map[string]string) { m["index.json"] = strings.ReplaceAll(m["index.json"], "/x:v1", "/../x:v1") }, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			_, err := s.Load(context.Background(), bytes.NewReader(layoutOf(t, c.edit)), LoadOptions{})
			require.ErrorIs(t, err, c.want)
			nothingLeft(t, s)
		})
	}
}

// What is no archive, or ends too early, or cannot be read.
func TestLoad_NoArchive(t *testing.T) {
	good := legacy(t, nil)
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte(strings.Repeat("hello ", 1000)), "cut": good[:len(good)/2], "cut gzip": gzipped(t, good)[:200],
		"gzip of text": gzipped(t, []byte("hello")), "xz": append([]byte{0xfd, '7', 'z', 'X', 'Z', 0}, good...),
		"a root file system": tarOf(t, file{name: "etc/passwd", data: "root"}),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			_, err := s.Load(context.Background(), bytes.NewReader(data), LoadOptions{})
			require.ErrorIs(t, err, ErrMalformed)
			nothingLeft(t, s)
		})
	}
	s := newStore(t, Options{})
	broken := errors.New("cable pulled")
	_, err := s.Load(context.Background(), io.MultiReader(bytes.NewReader(good[:2000]), failing{broken}), LoadOptions{})
	require.ErrorIs(t, err, broken)
	require.NotErrorIs(t, err, ErrContent)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = s.Load(ctx, bytes.NewReader(good), LoadOptions{})
	require.ErrorIs(t, err, context.Canceled)
	nothingLeft(t, s)
}

// An archive of an index: the platform's image is taken.
func TestLoad_Index(t *testing.T) {
	ix, images := multi(t)
	raw, err := ix.RawManifest()
	require.NoError(t, err)
	files := map[string]string{}
	add := func(data []byte) v1.Descriptor {
		h := digestOf(data)
		files["blobs/sha256/"+h.Hex] = string(data)
		return v1.Descriptor{Digest: h, Size: int64(len(data)), MediaType: mediaIndex}
	}
	for _, img := range images {
		m, err := img.RawManifest()
		require.NoError(t, err)
		c, err := img.RawConfigFile()
		require.NoError(t, err)
		add(m)
		add(c)
		add(rawOf(t, img, 0))
	}
	top, err := json.Marshal(index{SchemaVersion: 2, Manifests: []v1.Descriptor{add(raw)}})
	require.NoError(t, err)
	files["index.json"], files["oci-layout"] = string(top), layoutFile
	var list []file
	for n, d := range files {
		list = append(list, file{name: n, data: d})
	}
	s := newStore(t, Options{})
	got, err := s.Load(context.Background(), bytes.NewReader(archived(t, list...)), LoadOptions{Name: "multi:v1"})
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, mustHash(t, images["linux/amd64"].Digest).String(), got[0].Digest)
	require.Equal(t, digestOf(raw).String(), got[0].Source)
	requireExactly(t, s, got...) // and nothing of the other platforms
}

func TestImport(t *testing.T) {
	s := newStore(t, Options{})
	ctx := context.Background()
	rootfs := tarOf(t, file{name: "etc/"}, file{name: "etc/motd", data: "hello"}, file{name: "big", data: noise(3, 500_000)})
	o := ImportOptions{Config: Config{Cmd: []string{"/bin/sh"}, Env: []string{"A=b"}, WorkingDir: "/etc", User: "1000:1000", ExposedPorts: []string{"80/tcp"},
		Labels: map[string]string{"k": "v"}, StopSignal: "SIGINT"}}
	for packing, data := range map[string][]byte{"plain": rootfs, "gzip": gzipped(t, rootfs), "zstd": zstded(t, rootfs)} {
		im, err := s.Import(ctx, bytes.NewReader(data), "mine:"+packing, o)
		require.NoError(t, err)
		require.Equal(t, o.Config.Cmd, im.Config.Cmd)
		require.Equal(t, o.Config.ExposedPorts, im.Config.ExposedPorts)
		require.Equal(t, "1000:1000", im.Config.User)
		require.Equal(t, "amd64", im.Config.Architecture)
		require.NotZero(t, im.Config.Created)
		require.Equal(t, digestOf(rootfs).String(), im.Layers[0].DiffID)
		text, err := rootFile(t, s, im, "big")
		require.NoError(t, err)
		require.Equal(t, noise(3, 500_000), text)
		// What was imported can be saved and loaded like any image.
		list, err := newStore(t, Options{}).Load(ctx, bytes.NewReader(saved(t, s, FormatOCI, im.Ref)), LoadOptions{})
		require.NoError(t, err)
		require.Equal(t, im.Digest, list[0].Digest)
	}
	list, err := s.List(ctx)
	require.NoError(t, err)
	require.Len(t, list, 3)
	requireExactly(t, s, list...)

	into := newStore(t, Options{})
	for name, c := range map[string]struct {
		r    io.Reader
		ref  string
		o    ImportOptions
		want error
	}{
		"name":    {bytes.NewReader(rootfs), "A", ImportOptions{}, ErrReference},
		"digest":  {bytes.NewReader(rootfs), "a@sha256:" + strings.Repeat("0", 64), ImportOptions{}, ErrReference},
		"config":  {bytes.NewReader(rootfs), "a", ImportOptions{Config: Config{Cmd: []string{"\x00"}}}, ErrOptions},
		"text":    {strings.NewReader(strings.Repeat("no tar ", 1000)), "a", ImportOptions{}, ErrMalformed},
		"cut":     {bytes.NewReader(rootfs[:5000]), "a", ImportOptions{}, ErrMalformed},
		"cut gz":  {bytes.NewReader(gzipped(t, rootfs)[:5000]), "a", ImportOptions{}, ErrMalformed},
		"limit":   {bytes.NewReader(rootfs), "a", ImportOptions{Limits: flatten.Limits{Bytes: 1000}}, ErrLimit},
		"bomb":    {bytes.NewReader(gzipped(t, make([]byte, 200<<20))), "a", ImportOptions{Limits: flatten.Limits{Bytes: 1000, Entries: 1}}, ErrLimit},
		"unread":  {failing{io.ErrNoProgress}, "a", ImportOptions{}, io.ErrNoProgress},
		"unread2": {io.MultiReader(bytes.NewReader(gzipped(t, rootfs)[:5000]), failing{io.ErrNoProgress}), "a", ImportOptions{}, io.ErrNoProgress},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := into.Import(ctx, c.r, c.ref, c.o)
			require.ErrorIs(t, err, c.want)
			nothingLeft(t, into)
		})
	}
}

// A name with a bzip2 archive, which no layer may be packed in.
func TestImport_Bzip2(t *testing.T) {
	s := newStore(t, Options{})
	// printf x > a && tar c --owner=0 --group=0 --mtime=@0 a | bzip2
	data, err := base64.StdEncoding.DecodeString("QlpoOTFBWSZTWUXJq5IAAG97hMmAAEBgAGWAAADgAJ5AAACACCAAVDSNAANDQIqZTQBoAdfcZzKIe1VE3pbEtplU2oqEBSO4IlXk" +
		"yDcTQOqbzCZoOBH7VwVfQIiA+LuSKcKEgi5NXJA=")
	require.NoError(t, err)
	im, err := s.Import(context.Background(), bytes.NewReader(data), "bz", ImportOptions{})
	require.NoError(t, err)
	require.Equal(t, plain.mediaType(), im.Layers[0].MediaType)
	text, err := rootFile(t, s, im, "a")
	require.NoError(t, err)
	require.Equal(t, "x", text)
}
