// Command mkupper makes the templates of upper disks with mke2fs (e2fsprogs),
// always to the same bytes. It is run from anywhere in the module.
//
//	mkupper [-check] [-o FILE]
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/upper"
	"github.com/sandpit-vm/sandpit/internal/assets/mkasset"
)

func main() {
	mkasset.Main(mkasset.Spec{
		Maker: "guest/upper/mkupper",
		Dir:   "guest/upper",
		File:  "templates.zst",
		Pack:  func([]byte) ([]byte, error) { return makeTemplates() },
	})
}

// sizes are those of the templates, in bytes, ascending. The second is the
// default's: growing to it in the guest would take longer than all the rest of
// mounting it.
var sizes = []int64{upper.MinSize, upper.DefaultSize}

// The file system. Everything that mke2fs would choose by chance, by the clock
// or by a configuration file is fixed.
var mke2fsArgs = []string{
	"-q", "-F", "-t", "ext4",
	"-b", "4096", "-I", "256", "-m", "0", "-g", "32768", "-G", "16",
	"-L", "sandpit-upper",
	"-U", "5a4d7069-7400-4000-8000-757070657200",
	"-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
	// A journal this small is written over sooner, and less of the host's disk
	// is taken by it.
	"-J", "size=8",
	// resize: the reserve of group descriptor blocks lets it grow to 2 TiB.
	"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,resize=536870912,hash_seed=5a4d7069-7400-4000-8000-757070657201",
}

// buildTime is SOURCE_DATE_EPOCH and its like: 2026-01-01 00:00:00 UTC.
const buildTime = "1767225600"

// inodesPerGroup is a file for every 16 KiB. A group that is cut short has as
// many, for those that follow it, when it grows, are like it.
const inodesPerGroup, groupSize = 8192, 128 << 20

// makeTemplates packs all templates: what package upper's doc says.
func makeTemplates() ([]byte, error) {
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(sizes)))
	for _, size := range sizes {
		template, err := makeTemplate(size)
		if err != nil {
			return nil, err
		}
		out = append(out, template...)
	}
	return out, nil
}

func makeTemplate(size int64) ([]byte, error) {
	dir, err := os.MkdirTemp("", "mkupper-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "template.ext4")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(path, size); err != nil {
		return nil, err
	}
	tool, err := findTool("mke2fs")
	if err != nil {
		return nil, err
	}
	groups := (size + groupSize - 1) / groupSize
	args := append(slices.Clone(mke2fsArgs), "-N", fmt.Sprint(groups*inodesPerGroup), path)
	cmd := exec.Command(tool, args...)
	cmd.Env = []string{"MKE2FS_CONFIG=/dev/null", "E2FSPROGS_FAKE_TIME=" + buildTime, "SOURCE_DATE_EPOCH=" + buildTime, "PATH=/usr/sbin:/sbin:/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mke2fs: %w: %s", err, bytes.TrimSpace(out))
	}
	return pack(path, size)
}

// pack lists a file system's extents that are not zero.
func pack(path string, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const block = 4096
	type extent struct {
		off  int64
		data []byte
	}
	var extents []extent
	for buf, zero, off := make([]byte, block), make([]byte, block), int64(0); off < size; off += block {
		if data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA); err == unix.ENXIO {
			break
		} else if err == nil {
			off = max(off, data/block*block)
		}
		if _, err := f.ReadAt(buf, off); err != nil {
			return nil, err
		}
		if bytes.Equal(buf, zero) {
			continue
		}
		if n := len(extents); n > 0 && extents[n-1].off+int64(len(extents[n-1].data)) == off {
			extents[n-1].data = append(extents[n-1].data, buf...)
			continue
		}
		extents = append(extents, extent{off, bytes.Clone(buf)})
	}
	le := binary.LittleEndian
	out := le.AppendUint64(nil, uint64(size))
	out = le.AppendUint32(out, uint32(len(extents)))
	for _, e := range extents {
		out = le.AppendUint64(out, uint64(e.off))
		out = le.AppendUint32(out, uint32(len(e.data)))
		out = append(out, e.data...)
	}
	return out, nil
}

// findTool looks where Debian keeps it, which is not in every PATH.
func findTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	if path, err := exec.LookPath("/usr/sbin/" + name); err == nil {
		return path, nil
	}
	return "", errors.New(name + " is not installed; it is in Debian's package e2fsprogs")
}
