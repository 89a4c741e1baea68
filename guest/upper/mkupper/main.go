// Command mkupper makes the template of upper disks with mke2fs (e2fsprogs),
// always to the same bytes. It is run from anywhere in the module.
//
//	mkupper [-check] [-o FILE]
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sandpit-vm/sandpit/internal/assets/mkasset"
)

func main() {
	mkasset.Main(mkasset.Spec{
		Maker: "guest/upper/mkupper",
		Dir:   "guest/upper",
		File:  "template.ext4.zst",
		Pack:  func([]byte) ([]byte, error) { return makeTemplate() },
	})
}

// templateMiB is one block group: the least that makes sense, and the smallest
// upper that can be asked for.
const templateMiB = 128

// The file system. Everything that mke2fs would choose by chance, by the clock
// or by a configuration file is fixed.
var mke2fsArgs = []string{
	"-q", "-F", "-t", "ext4",
	"-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-g", "32768", "-G", "16",
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

func makeTemplate() ([]byte, error) {
	dir, err := os.MkdirTemp("", "mkupper-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "template.ext4")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(path, templateMiB<<20); err != nil {
		return nil, err
	}
	tool, err := findTool("mke2fs")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(tool, append(mke2fsArgs, path)...)
	cmd.Env = []string{"MKE2FS_CONFIG=/dev/null", "E2FSPROGS_FAKE_TIME=" + buildTime, "SOURCE_DATE_EPOCH=" + buildTime, "PATH=/usr/sbin:/sbin:/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mke2fs: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.ReadFile(path)
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
