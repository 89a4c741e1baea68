package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// job is one way to make files, or a file system, of an image.
type job struct {
	name, includes string
	peer           bool // one of those that ours is compared with
	floor          bool // only a part of the work, to say where time goes
	tools          []string
	// prepare makes ready, untimed, what the steps need in a fresh directory;
	// steps are the commands, timed, one after the other.
	prepare func(dir string) error
	steps   func(dir string) []*exec.Cmd

	err    error
	took   []time.Duration // by the clock
	synced []time.Duration // with everything written back
	cpu    []time.Duration
	rss    int64 // peak of any process, bytes
}

// once runs the job, in a directory of its own that is deleted again.
func (j *job) once(parent string) (err error) {
	dir, err := os.MkdirTemp(parent, "job-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if j.prepare != nil {
		if err := j.prepare(dir); err != nil {
			return err
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil { // nobody writes back what others wrote
		return err
	}
	var cpu time.Duration
	start := time.Now()
	for _, cmd := range j.steps(dir) {
		if err := quietly(cmd); err != nil {
			return err
		}
		ru := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		j.rss = max(j.rss, ru.Maxrss<<10)
		cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	took := time.Since(start)
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return err
	}
	j.took = append(j.took, took)
	j.synced = append(j.synced, time.Since(start))
	j.cpu = append(j.cpu, cpu)
	return nil
}

// pulls measures pull-and-convert.
func pulls(w io.Writer, o options, dir, image string) error {
	all, err := pullJobs(o, dir, image)
	if err != nil {
		return err
	}
	for _, j := range all {
		for _, tool := range j.tools {
			if _, err := exec.LookPath(tool); err != nil && j.err == nil {
				j.err = err
			}
		}
	}
	for i := range o.runs + 1 {
		for _, j := range all {
			if j.err != nil {
				continue
			}
			j.err = j.once(dir)
			if i == 0 { // a warm-up: what is read is in the page cache from here on
				j.took, j.synced, j.cpu, j.rss = nil, nil, nil, 0
			}
		}
	}
	if err := printPulls(w, o, all); err != nil {
		return err
	}
	if all[0].err != nil {
		return all[0].err
	}
	if o.bigFiles > 0 {
		return bigPull(w, o, dir)
	}
	return nil
}

// pullJobs are ours, the peers', and the least that anybody has to do.
func pullJobs(o options, dir, image string) ([]*job, error) {
	layout := filepath.Join(o.testImages, "layout")
	layers, err := layersOf(layout, "python")
	if err != nil {
		return nil, err
	}
	home := filepath.Join(dir, "home")
	archive := filepath.Join(dir, "python.oci.tar")
	if err := quietly(homeOf(home, exec.Command(o.sandpit, "image", "save", "--format", "oci", "-o", archive, image))); err != nil {
		return nil, err
	}
	each := func(cmd func(layer string) *exec.Cmd) []*exec.Cmd {
		var out []*exec.Cmd
		for _, l := range layers {
			out = append(out, cmd(l))
		}
		return out
	}
	rootless := func(args ...string) *exec.Cmd {
		if os.Geteuid() != 0 {
			args = append(args, "--rootless")
		}
		return exec.Command("umoci", args...)
	}
	return []*job{
		{
			name: "sandpit pull", includes: "download, two digests, gunzip, EROFS, fsync",
			steps: func(dir string) []*exec.Cmd {
				return []*exec.Cmd{homeOf(dir, exec.Command(o.sandpit, "pull", "--quiet", image))}
			},
		},
		{
			name: "sandpit image load", includes: "the same from a local archive",
			steps: func(dir string) []*exec.Cmd {
				return []*exec.Cmd{homeOf(dir, exec.Command(o.sandpit, "image", "load", "--quiet", archive))}
			},
		},
		{
			name: "sandpit, conversion alone", includes: "layers are in the cache: digest, gunzip, EROFS, fsync",
			prepare: func(dir string) error {
				if err := quietly(exec.Command("cp", "-a", home+"/.", dir)); err != nil {
					return err
				}
				return os.RemoveAll(filepath.Join(dir, "cache", "images", "roots"))
			},
			steps: func(dir string) []*exec.Cmd {
				return []*exec.Cmd{homeOf(dir, exec.Command(o.sandpit, "pull", "--quiet", image))}
			},
		},
		{
			name: "umoci unpack", includes: "local layout: digests, gunzip, files, mtree manifest", peer: true, tools: []string{"umoci"},
			steps: func(dir string) []*exec.Cmd {
				return []*exec.Cmd{rootless("unpack", "--image", layout+":python", dir+"/bundle")}
			},
		},
		{
			name: "umoci raw unpack", includes: "local layout: digests, gunzip, files", peer: true, tools: []string{"umoci"},
			steps: func(dir string) []*exec.Cmd {
				return []*exec.Cmd{rootless("raw", "unpack", "--image", layout+":python", dir+"/rootfs")}
			},
		},
		{
			name: "tar x and mkfs.erofs", includes: "local layer: gunzip, files, EROFS of them", peer: true, tools: []string{"tar", "gzip", "mkfs.erofs"},
			prepare: func(dir string) error { return os.Mkdir(dir+"/rootfs", 0o755) },
			steps: func(dir string) []*exec.Cmd {
				cmds := each(func(layer string) *exec.Cmd {
					return exec.Command("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpzf", layer, "-C", dir+"/rootfs")
				})
				return append(cmds, exec.Command("mkfs.erofs", dir+"/root.erofs", dir+"/rootfs"))
			},
		},
		{
			name: "gzip -t", includes: "only gunzip, to nowhere", floor: true, tools: []string{"gzip"},
			steps: func(string) []*exec.Cmd {
				return each(func(layer string) *exec.Cmd { return exec.Command("sh", "-c", `gzip -t <"$0"`, layer) })
			},
		},
	}, nil
}

// printPulls prints the table.
func printPulls(w io.Writer, o options, all []*job) error {
	fmt.Fprintf(w, "pull and convert the python image, %d runs, in turn, medians; inputs in the page cache; \"written\" is with the disk caught up:\n", o.runs)
	var fastest *job
	for _, j := range all {
		if j.peer && j.err == nil && (fastest == nil || median(j.took) < median(fastest.took)) {
			fastest = j
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  \ttime\tof the faster peer\twritten\tof it\tCPU\tpeak memory\tincludes")
	for _, j := range all {
		if j.err != nil {
			fmt.Fprintf(t, "  %s\tskipped: %v\n", j.name, firstLine(j.err))
			continue
		}
		of, ofSynced := "", ""
		if fastest != nil && !j.floor {
			of = fmt.Sprintf("%.2f", ratio(j.took, fastest.took))
			ofSynced = fmt.Sprintf("%.2f", ratio(j.synced, fastest.synced))
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", j.name, ms(median(j.took)), of,
			ms(median(j.synced)), ofSynced, ms(median(j.cpu)), peak(j.rss), j.includes)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if fastest != nil {
		fmt.Fprintf(w, "the faster peer: %s; target: at most 1.00\n\n", fastest.name)
	}
	return nil
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// peak is what a peak of memory is printed as. Linux counts what a process had
// before it executed its program, which is this one's: less cannot be seen.
func peak(rss int64) string {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err == nil && rss <= ru.Maxrss<<10 {
		return "< " + mib(rss)
	}
	return mib(rss)
}

// descriptor is a reference of the OCI image format.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// layersOf are the files of a local image's layers, bottom first.
func layersOf(layout, name string) ([]string, error) {
	blob := func(digest string) string {
		return filepath.Join(layout, "blobs", filepath.FromSlash(strings.ReplaceAll(digest, ":", "/")))
	}
	var index struct{ Manifests []descriptor }
	if err := readJSON(filepath.Join(layout, "index.json"), &index); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(index.Manifests, func(d descriptor) bool {
		return d.Annotations["org.opencontainers.image.ref.name"] == name
	})
	if i < 0 {
		return nil, fmt.Errorf("%s has no image %q", layout, name)
	}
	var manifest struct{ Layers []descriptor }
	if err := readJSON(blob(index.Manifests[i].Digest), &manifest); err != nil {
		return nil, err
	}
	var out []string
	for _, l := range manifest.Layers {
		out = append(out, blob(l.Digest))
	}
	return out, nil
}

func readJSON(file string, v any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
