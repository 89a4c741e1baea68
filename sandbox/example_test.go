package sandbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// All problems of a configuration are told at once, each with its remedy.
func ExampleConfigError() {
	_, err := sandbox.Create(context.Background(), "build", sandbox.Config{CPUs: 100, Workdir: "src"})
	var bad *sandbox.ConfigError
	if errors.As(err, &bad) {
		for _, problem := range bad.Problems {
			fmt.Println(problem)
		}
	}
	// Output:
	// CPUs: 100: want 1 to 32, which is what the kernel is built for
	// Workdir: "src": want an absolute path
}

func ExampleFieldError() {
	p := sandbox.FieldError{Field: "Memory", Reason: "64 MiB: the kernel needs at least 128 to boot"}
	fmt.Println(p)
	// Output: Memory: 64 MiB: the kernel needs at least 128 to boot
}

// An Error names the sandbox and the step; the condition is underneath.
func ExampleError() {
	_, err := sandbox.Get(context.Background(), "nowhere")
	var failure *sandbox.Error
	if errors.As(err, &failure) {
		fmt.Println(failure.Sandbox, failure.Op, errors.Is(err, sandbox.ErrNotFound))
	}
	// Output: nowhere get true
}

// A root file system is an OCI image, a directory or a disk image. Config.Image
// is the short form of the same.
func ExampleRootSource() {
	for _, root := range []sandbox.RootSource{
		sandbox.OCI{Ref: "python:3"},
		sandbox.Dir{Path: "/srv/root"},
		sandbox.Disk{Path: "/srv/debian.qcow2", ReadOnly: true},
	} {
		fmt.Printf("%T\n", root)
	}
	// Output:
	// sandbox.OCI
	// sandbox.Dir
	// sandbox.Disk
}

func ExampleOCI() {
	cfg := sandbox.Config{Root: sandbox.OCI{Ref: "python:3"}}
	data, _ := json.Marshal(cfg.Root)
	fmt.Println(string(data))
	// Output: {"ref":"python:3"}
}

// A directory is copied when the sandbox is created: what the guest writes
// stays in the guest.
func ExampleDir() {
	_, err := sandbox.Create(context.Background(), "dir", sandbox.Config{Root: sandbox.Dir{Path: "/nowhere"}})
	fmt.Println(err)
	// Output: sandbox: invalid configuration: Root: stat /nowhere: no such file or directory
}

// A disk image is written to, unless it is ReadOnly: then an upper takes the
// writes.
func ExampleDisk() {
	_, err := sandbox.Create(context.Background(), "disk", sandbox.Config{
		Root: sandbox.Disk{Path: "/dev/null", Format: "raw", ReadOnly: true},
	})
	fmt.Println(err)
	// Output: sandbox: invalid configuration: Root: /dev/null: not a regular file
}

func ExamplePullPolicy() {
	_, err := sandbox.PullImage(context.Background(), "localhost/tools", sandbox.PullOptions{Policy: sandbox.PullNever})
	fmt.Println(errors.Is(err, sandbox.ErrNotCached))
	// Output: true
}

func ExamplePullOptions() {
	// A registry of one's own, and a look at what goes on.
	options := sandbox.PullOptions{
		Policy:   sandbox.PullAlways,
		Auth:     &sandbox.RegistryAuth{Username: "me", Password: os.Getenv("REGISTRY_PASSWORD")},
		CAFile:   "/etc/ssl/private-ca.pem",
		Progress: func(e sandbox.PullEvent) { fmt.Println(e.Kind, e.Done, e.Total) },
	}
	fmt.Println(options.Policy)
	// Output: always
}

func ExampleRegistryAuth() {
	cfg := sandbox.Config{
		Image:        "registry.example/team/tools:1",
		RegistryAuth: &sandbox.RegistryAuth{Username: "me", Password: os.Getenv("REGISTRY_PASSWORD")},
	}
	data, _ := json.Marshal(cfg)
	fmt.Println(bytes.Contains(data, []byte("Password"))) // credentials are never stored
	// Output: false
}

func ExamplePullEvent() {
	progress := func(e sandbox.PullEvent) {
		if e.Kind == sandbox.EventDownload && e.Total > 0 {
			fmt.Printf("%d %%\n", 100*e.Done/e.Total)
		}
	}
	progress(sandbox.PullEvent{Kind: sandbox.EventDownload, Done: 5 << 20, Total: 20 << 20})
	// Output: 25 %
}

func ExamplePlatform() {
	p, err := sandbox.ParsePlatform("linux/amd64")
	fmt.Println(p, err)
	// Output: linux/amd64 <nil>
}

// rootArchive is the tar of a root file system, of one file.
func rootArchive() *bytes.Buffer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "etc/motd", Mode: 0o644, Size: 3})
	_, _ = w.Write([]byte("hi\n"))
	_ = w.Close()
	return &b
}

// A root file system's tar archive becomes an image.
func ExampleImage() {
	image, err := sandbox.ImportImage(context.Background(), rootArchive(), "localhost/motd", sandbox.ImportOptions{
		Config: sandbox.ImageConfig{Cmd: []string{"/bin/cat", "/etc/motd"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(image.Ref, len(image.Layers), image.Config.Cmd)
	// Output: localhost/motd:latest 1 [/bin/cat /etc/motd]
}

func ExampleImageConfig() {
	c := sandbox.ImageConfig{Env: []string{"LANG=C.UTF-8"}, Entrypoint: []string{"/docker-entrypoint.sh"}, Cmd: []string{"serve"}}
	fmt.Println(append(c.Entrypoint, c.Cmd...))
	// Output: [/docker-entrypoint.sh serve]
}

// Limits are the caller's to change.
func ExampleImageLimits() {
	_, err := sandbox.ImportImage(context.Background(), rootArchive(), "localhost/small", sandbox.ImportOptions{
		Limits: sandbox.ImageLimits{Bytes: 1},
	})
	fmt.Println(err != nil)
	// Output: true
}

func ExampleImportOptions() {
	options := sandbox.ImportOptions{Config: sandbox.ImageConfig{Env: []string{"A=1"}}}
	image, err := sandbox.ImportImage(context.Background(), rootArchive(), "localhost/env:2", options)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(image.Ref, image.Config.Env)
	// Output: localhost/env:2 [A=1]
}

// An image goes through an archive, under another name.
func ExampleLoadOptions() {
	ctx := context.Background()
	if _, err := sandbox.ImportImage(ctx, rootArchive(), "localhost/old", sandbox.ImportOptions{}); err != nil {
		fmt.Println(err)
		return
	}
	var archive bytes.Buffer
	if err := sandbox.SaveImages(ctx, &archive, sandbox.FormatOCI, "localhost/old"); err != nil {
		fmt.Println(err)
		return
	}
	images, err := sandbox.LoadImages(ctx, &archive, sandbox.LoadOptions{Name: "localhost/new"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(images[0].Ref)
	// Output: localhost/new:latest
}

func ExampleArchiveFormat() {
	fmt.Println(sandbox.FormatOCI, sandbox.FormatDocker)
	// Output: oci docker
}

func ExamplePruned() {
	ctx := context.Background()
	if _, err := sandbox.ImportImage(ctx, rootArchive(), "localhost/waste", sandbox.ImportOptions{}); err != nil {
		fmt.Println(err)
		return
	}
	pruned, err := sandbox.RemoveImage(ctx, "localhost/waste", false)
	fmt.Println(pruned.Refs, err)
	// Output: [localhost/waste:latest] <nil>
}

// What comes later is refused today, clearly.
func ExampleMount() {
	_, err := sandbox.Create(context.Background(), "build", sandbox.Config{
		Mounts: []sandbox.Mount{{Kind: sandbox.MountBind, Source: "/src", Target: "/src", ReadOnly: true}},
	})
	fmt.Println(err)
	// Output: sandbox: invalid configuration: Mounts: not yet available in this version; Patches and FS copy files into the sandbox
}

func ExampleMountKind() {
	fmt.Println(sandbox.MountBind, sandbox.MountVolume, sandbox.MountTmpfs, sandbox.MountDisk)
	// Output: bind volume tmpfs disk
}

func ExamplePortMapping() {
	_, err := sandbox.Create(context.Background(), "web", sandbox.Config{Ports: []sandbox.PortMapping{{Host: 8080, Guest: 80}}})
	fmt.Println(err)
	// Output: sandbox: invalid configuration: Ports: not yet available in this version: the guest has no network but its loopback
}

func ExampleNetworkConfig() {
	// Today's sandboxes have no network; this one does not want any.
	cfg := sandbox.Config{Network: sandbox.NetworkConfig{Disabled: true}}
	fmt.Println(cfg.Network.Disabled)
	// Output: true
}

func ExampleNetworkPolicy() {
	_, err := sandbox.Create(context.Background(), "web", sandbox.Config{
		Network: sandbox.NetworkConfig{Policy: sandbox.NetworkPublic},
	})
	fmt.Println(err)
	// Output: sandbox: invalid configuration: Network: not yet available in this version: the guest has no network but its loopback
}

func ExampleSecret() {
	secret := sandbox.SecretEnv("API_KEY", os.Getenv("API_KEY")+"…", "api.example.com")
	data, _ := json.Marshal(secret)
	fmt.Println(string(data)) // the value is never stored
	// Output: {"env":"API_KEY","hosts":["api.example.com"]}
}

func ExamplePatchKind() {
	patches := []sandbox.Patch{
		{Kind: sandbox.PatchFile, Path: "/etc/motd", Content: "hello\n"},
		{Kind: sandbox.PatchMkdir, Path: "/data"},
		{Kind: sandbox.PatchSymlink, Path: "/etc/localtime", Target: "/usr/share/zoneinfo/UTC", Replace: true},
	}
	for _, p := range patches {
		fmt.Println(p.Kind, p.Path)
	}
	// Output:
	// file /etc/motd
	// mkdir /data
	// symlink /etc/localtime
}

func ExampleLogLevel() {
	cfg := sandbox.Config{LogLevel: sandbox.LogDebug}
	fmt.Println(cfg.LogLevel, sandbox.LogTrace < cfg.LogLevel)
	// Output: DEBUG true
}

func ExampleVersionInfo() {
	v := sandbox.Version()
	fmt.Println(v.Sandpit != "", v.Kernel != "", v.Go != "")
	// Output: true true true
}

// A host is asked whether it can run sandboxes before the first is made.
func ExampleCheck() {
	for _, check := range sandbox.Diagnose(context.Background()) {
		if check.Err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n%s\n", check.Name, check.Err, check.Remedy)
		}
	}
	// Output:
}

func ExampleConfig() {
	cfg := sandbox.Config{
		Image:       "python:3",
		CPUs:        2,
		Memory:      1024,
		Env:         []string{"PYTHONDONTWRITEBYTECODE=1"},
		Workdir:     "/work",
		User:        "nobody",
		Scripts:     map[string]string{"check": "python3 -m compileall -q /work"},
		IdleTimeout: 10 * time.Minute,
		Labels:      map[string]string{"team": "ci"},
		Patches:     []sandbox.Patch{{Kind: sandbox.PatchCopyDir, Source: filepath.Join("testdata", "src"), Path: "/work"}},
	}
	data, _ := json.MarshalIndent(cfg, "", "  ")
	var back sandbox.Config
	fmt.Println(json.Unmarshal(data, &back), back.Image, back.IdleTimeout)
	// Output: <nil> python:3 10m0s
}
