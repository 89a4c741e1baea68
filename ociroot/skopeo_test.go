package ociroot

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// skopeo runs Debian's skopeo, an independent reader and writer of everything
// that this package reads and writes.
func skopeo(t *testing.T, args ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("not with -short")
	}
	path, err := exec.LookPath("skopeo")
	require.NoError(t, err, "this test needs skopeo: apt-get install -y skopeo")
	policy := filepath.Join(t.TempDir(), "policy.json")
	require.NoError(t, os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600))
	c := exec.Command(path, append([]string{"--policy", policy}, args...)...)
	c.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := c.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

// skopeo reads the store's layout, and a copy that it makes of an image is the
// same image.
func TestSkopeo_ReadsLayout(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	img := sample(t)
	ref := r.push(t, "some/sample:v1", img)
	im := pull(t, s, ref, anonymous())
	other := pull(t, s, r.push(t, "other:v2", imageOf(t, gzLayer(t, tarOf(t, file{name: "c"})))), anonymous())

	var raw, config struct {
		Layers []struct{ Digest string }
		Config struct{ Env []string }
	}
	require.NoError(t, json.Unmarshal([]byte(skopeo(t, "inspect", "--raw", "oci:"+s.Layout()+":"+ref)), &raw))
	require.Len(t, raw.Layers, 3)
	require.NoError(t, json.Unmarshal([]byte(skopeo(t, "inspect", "--config", "oci:"+s.Layout()+":"+ref)), &config))
	require.Equal(t, im.Config.Env, config.Config.Env)

	dir := filepath.Join(t.TempDir(), "copy")
	skopeo(t, "copy", "--preserve-digests", "oci:"+s.Layout()+":"+ref, "dir:"+dir)
	manifest, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	require.NoError(t, err)
	require.Equal(t, im.Digest, digestOf(manifest).String())
	skopeo(t, "copy", "oci:"+s.Layout()+":"+other.Ref, "dir:"+filepath.Join(t.TempDir(), "copy"))
}

// Archives go both ways, in both forms.
func TestSkopeo_Archives(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ctx := context.Background()
	// skopeo's version of Debian 12 does not write zstd into docker archives.
	ref := r.push(t, "some/sample:v1", imageOf(t,
		gzLayer(t, tarOf(t, file{name: "etc/"}, file{name: "etc/motd", data: "hello"})), plainLayer(tarOf(t, file{name: "b", data: noise(4, 100_000)}))))
	im := pull(t, s, ref, anonymous())
	for format, transport := range map[Format]string{FormatOCI: "oci-archive:", FormatDocker: "docker-archive:"} {
		dir := t.TempDir()
		ours, theirs := filepath.Join(dir, "ours.tar"), filepath.Join(dir, "theirs.tar")
		require.NoError(t, os.WriteFile(ours, saved(t, s, format, ref), 0o600))
		skopeo(t, "copy", transport+ours+":"+ref, transport+theirs+":"+ref)
		f, err := os.Open(theirs)
		require.NoError(t, err)
		defer f.Close()
		into := newStore(t, Options{})
		list, err := into.Load(ctx, f, LoadOptions{})
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Equal(t, ref, list[0].Ref)
		require.Equal(t, im.Config, list[0].Config)
		for i := range im.Layers {
			require.Equal(t, im.Layers[i].DiffID, list[0].Layers[i].DiffID)
		}
		text, err := rootFile(t, into, list[0], "etc/motd")
		require.NoError(t, err)
		require.Equal(t, "hello", text)
	}
}

// An image that skopeo pushed is pulled as it is.
func TestSkopeo_Pushes(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ref := r.push(t, "a:v1", sample(t))
	im := pull(t, s, ref, anonymous())
	to := strings.Replace(ref, "/a:v1", "/b:v1", 1)
	skopeo(t, "copy", "--dest-tls-verify=false", "oci:"+s.Layout()+":"+ref, "docker://"+to)
	got := pull(t, newStore(t, Options{}), to, anonymous())
	require.Equal(t, im.Digest, got.Digest)
}

// An image that skopeo wrote into the layout is an image of the store: it is
// used, and not collected.
func TestSkopeo_WritesLayout(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ref := r.push(t, "a:v1", sample(t))
	skopeo(t, "copy", "--preserve-digests", "--src-tls-verify=false", "docker://"+ref, "oci:"+s.Layout()+":"+ref)
	skopeo(t, "copy", "--preserve-digests", "--src-tls-verify=false", "docker://"+ref, "oci:"+s.Layout()+":short")
	_, err := s.Prune(context.Background(), PruneOptions{})
	require.NoError(t, err)
	r.Close()
	never := anonymous()
	never.Policy = PullNever
	im := pull(t, s, ref, never)
	text, err := rootFile(t, s, im, "etc/top")
	require.NoError(t, err)
	require.Equal(t, "top", text)
	got, err := s.Inspect(context.Background(), "short")
	require.NoError(t, err)
	require.Equal(t, im.Digest, got.Digest)
	requireExactly(t, s, im)
}
