package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/sandbox"
)

// testImages is where scripts/testimages.sh put the images.
func testImages(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SANDPIT_TESTIMAGES")
	require.NotEmpty(t, dir, "SANDPIT_TESTIMAGES is not set: scripts/testimages.sh makes the images, scripts/test.sh sets it")
	require.FileExists(t, filepath.Join(dir, "complete"))
	return dir
}

// registry is a real registry, Debian's docker-registry, on the loopback.
type registry struct{ addr string }

// startRegistry starts one over a storage directory; config is more YAML for
// its configuration.
func startRegistry(t *testing.T, storage, config string) registry {
	t.Helper()
	if !strings.Contains(config, "http:") {
		config += "\nhttp: {addr: \"127.0.0.1:0\"}\n"
	}
	file := filepath.Join(t.TempDir(), "registry.yml")
	text := fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\n%s", storage, config)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	cmd := exec.Command("docker-registry", "serve", file)
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start(), "Debian's package docker-registry is needed")
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	found := make(chan string, 1)
	go func() {
		listening := regexp.MustCompile(`listening on 127\.0\.0\.1:(\d+)`)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			if m := listening.FindStringSubmatch(s.Text()); m != nil {
				found <- "localhost:" + m[1]
			}
		}
		close(found)
	}()
	select {
	case addr := <-found:
		require.NotEmpty(t, addr, "docker-registry ended")
		return registry{addr}
	case <-time.After(60 * time.Second):
		t.Fatal("docker-registry does not listen")
		return registry{}
	}
}

// imageHome makes sandpit runs share a home, and so an image cache.
type imageHome struct{ dir string }

func (h imageHome) sandpit(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), mainEnv+"=1", "SANDPIT_HOME="+h.dir, "DOCKER_CONFIG="+h.dir)
	return cmd
}

func (h imageHome) run(t *testing.T, args ...string) result {
	t.Helper()
	return finish(t, h.sandpit(args...))
}

func (h imageHome) output(t *testing.T, args ...string) string {
	t.Helper()
	r := h.run(t, args...)
	require.Zero(t, r.status, "sandpit %q: %s", args, r.stderr)
	return r.stdout
}

func TestRunImages(t *testing.T) {
	kvmtest.NeedKVM(t)
	reg := startRegistry(t, filepath.Join(testImages(t), "registry"), "")
	h := imageHome{t.TempDir()}

	t.Run("debian", func(t *testing.T) {
		r := h.run(t, "run", reg.addr+"/debian", "--", "cat", "/etc/os-release")
		require.Zero(t, r.status, r.stderr)
		require.Contains(t, r.stdout, "ID=debian")
		require.Contains(t, r.stderr, "downloaded", "progress goes to standard error")

		require.Contains(t, h.output(t, "run", "--pull", "never", reg.addr+"/debian", "cat", "/etc/os-release"), "ID=debian")
		r = h.run(t, "run", "--pull", "never", reg.addr+"/python", "--", "true")
		require.Equal(t, exitFailure, r.status)
		require.Contains(t, r.stderr, "cache")
	})
	t.Run("every file", func(t *testing.T) {
		requireSameTree(t, h, reg.addr+"/debian", sandbox.PullNever, func(dir string) *exec.Cmd {
			return exec.Command("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf",
				filepath.Join(testImages(t), "debian.tar"), "-C", dir)
		}, "")
	})
	t.Run("every whiteout", func(t *testing.T) {
		requireSameTree(t, h, reg.addr+"/whiteouts", sandbox.PullIfMissing, func(dir string) *exec.Cmd {
			return exec.Command("umoci", "raw", "unpack", "--image", filepath.Join(testImages(t), "layout")+":whiteouts", dir+"/rootfs")
		}, "rootfs")
	})
	t.Run("python", func(t *testing.T) {
		image := reg.addr + "/python"
		require.Equal(t, "C.UTF-8 1 /srv\n", h.output(t, "run", image, "--",
			"python3", "-c", "import os; print(os.environ['LANG'], os.environ['PYTHONUNBUFFERED'], os.getcwd())"))
		cmd := h.sandpit("run", "-w", "/", "-e", "LANG=C", image) // the image's own command
		cmd.Stdin = strings.NewReader("import os; print(os.environ['LANG'], os.getcwd())")
		require.Equal(t, result{"C /\n", "", 0}, finish(t, cmd))
	})
	t.Run("node", func(t *testing.T) {
		image := reg.addr + "/node"
		require.Equal(t, "nobody production /tmp 2\n", h.output(t, "run", image, "--", "-e",
			"console.log(os.userInfo().username, process.env.NODE_ENV, process.cwd(), 1+1)"), "the command follows the entrypoint")
		require.Regexp(t, `^v\d+\.`, h.output(t, "run", image))
		require.Equal(t, "0\n", h.output(t, "run", "--entrypoint", "", "-u", "root", image, "--", "id", "-u"))
	})
	requireNothingLeft(t, filepath.Join(h.dir, "sandboxes"))
}

// layersOf are the digests of an image's uncompressed layers.
func layersOf(t *testing.T, h imageHome, image string) (diffIDs []string) {
	t.Helper()
	var images []sandbox.Image
	require.NoError(t, json.Unmarshal([]byte(h.output(t, "image", "inspect", image)), &images))
	require.Len(t, images, 1)
	for _, l := range images[0].Layers {
		require.NotEmpty(t, l.DiffID)
		diffIDs = append(diffIDs, l.DiffID)
	}
	return diffIDs
}

// requireSameTree compares an image as the guest sees its root disk, with
// nothing over it, with what another tool unpacks: all names, and everything
// about them.
func requireSameTree(t *testing.T, h imageHome, image string, pull sandbox.PullPolicy, unpack func(dir string) *exec.Cmd, sub string) {
	treelist := os.Getenv("SANDPIT_TREELIST")
	require.NotEmpty(t, treelist, "SANDPIT_TREELIST is not set: scripts/test.sh builds the program and sets it")
	dir := t.TempDir()
	out, err := unpack(dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	want, err := exec.Command(treelist, filepath.Join(dir, sub)).Output()
	require.NoError(t, err)

	t.Setenv("SANDPIT_HOME", h.dir)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	sb, err := sandbox.Create(ctx, "tree", sandbox.Config{
		Image: image, Ephemeral: true, PullPolicy: pull,
		Patches: []sandbox.Patch{{Kind: sandbox.PatchCopyFile, Path: "/treelist", Source: treelist}},
	})
	require.NoError(t, err)
	defer sb.Kill(ctx)
	got, err := sb.Command(ctx, "/treelist", "-erofs", "/dev/pmem0").Output()
	require.NoError(t, err)
	require.Equal(t, strings.Split(string(want), "\n"), strings.Split(string(got), "\n"))
	t.Logf("%d names are the same", strings.Count(string(got), "\n"))
}

// Tests whose names begin with TestHost need no VM: scripts/test.sh runs them
// here and not in the rig, where they would take minutes.

func TestHostImageCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the test images, which -short leaves out")
	}
	reg := startRegistry(t, filepath.Join(testImages(t), "registry"), "")
	h := imageHome{t.TempDir()}
	image := reg.addr + "/whiteouts:latest"

	digest := strings.TrimSpace(h.output(t, "pull", "--quiet", reg.addr+"/whiteouts"))
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, digest)
	require.Contains(t, h.output(t, "image", "ls"), image)
	require.Equal(t, digest+"\n", h.output(t, "image", "ls", "-q"))
	var list []struct{ Ref, Digest string }
	require.NoError(t, json.Unmarshal([]byte(h.output(t, "image", "ls", "--format", "json")), &list))
	require.Len(t, list, 1)
	require.Equal(t, image, list[0].Ref)
	require.Contains(t, h.output(t, "image", "inspect", digest[:20]), digest)

	for _, format := range []string{"docker", "oci"} {
		file := filepath.Join(t.TempDir(), "image.tar")
		h.output(t, "image", "save", "--format", format, "-o", file, image)
		other := imageHome{t.TempDir()}
		loaded := other.output(t, "image", "load", "--quiet", file)
		require.Contains(t, loaded, image+" sha256:")
		if format == "oci" { // the other format has no manifest, and so none of its digest
			require.Contains(t, loaded, digest)
		}
		require.Equal(t, layersOf(t, h, image), layersOf(t, other, image))
	}
	r := h.run(t, "image", "rm", "localhost/none")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "localhost/none")
	require.Equal(t, image+"\n", h.output(t, "image", "rm", image))
	require.Contains(t, h.output(t, "image", "prune", "--all"), "reclaimed")
	require.Equal(t, "[]\n", h.output(t, "image", "ls", "--format", "json"))
}
