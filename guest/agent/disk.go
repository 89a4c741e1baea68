package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

const sysBlock = "/sys/block"

// rootTypes are what a root may be, as the kernel has them; auto looks.
var rootTypes = []string{"erofs", "ext4", "auto"}

func knownRootType(t string) bool { return t == "" || slices.Contains(rootTypes, t) }

func serial(given, def string) string {
	if given == "" {
		return def
	}
	return given
}

// findRoot returns the root's block device and file system.
func findRoot(r *proto.SetupRequest) (disk, fstype string, err error) {
	want := serial(r.GetRootSerial(), defaultRootSerial)
	if name, ok := strings.CutPrefix(want, "/dev/"); ok {
		// Persistent memory has no serial; its driver may still be at work.
		if err := waitFor(want, pmemPatience); err != nil {
			return "", "", &Error{Op: "find root disk", Path: want, Err: err}
		}
		return name, "erofs", nil
	}
	disk, err = findDisk(sysBlock, want)
	if err != nil {
		return "", "", err
	}
	if disk == "" {
		return "", "", &Error{Op: "find root disk", Err: fmt.Errorf("no virtio-blk disk has the serial %q", want)}
	}
	switch fstype = r.GetRootFstype(); fstype {
	case "":
		return disk, "erofs", nil
	case "auto":
		return chooseVolume(disk)
	}
	return disk, fstype, nil
}

// pmemPatience is how long the kernel may take to set persistent memory up,
// which it does beside other things.
const pmemPatience = 5 * time.Second

// waitFor waits until a file exists.
func waitFor(path string, patience time.Duration) error {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		_, err := os.Stat(path)
		if err == nil || !os.IsNotExist(err) || time.Now().After(end) {
			return err
		}
	}
}

// volume is a disk or partition and what it holds.
type volume struct {
	name, fstype string
	sectors      uint64
}

// chooseVolume takes the disk itself if it holds a file system, else the
// largest partition that holds one.
func chooseVolume(disk string) (name, fstype string, err error) {
	whole, err := probe(disk)
	if err != nil {
		return "", "", err
	}
	if slices.Contains(rootTypes, whole) {
		return disk, whole, nil
	}
	parts, err := partitions(sysBlock, disk)
	if err != nil {
		return "", "", err
	}
	var best volume
	var seen []string
	if whole != "" {
		seen = append(seen, disk+": "+whole)
	}
	for _, p := range parts {
		if p.fstype, err = probe(p.name); err != nil {
			return "", "", err
		}
		if p.fstype != "" {
			seen = append(seen, p.name+": "+p.fstype)
		}
		if slices.Contains(rootTypes, p.fstype) && p.sectors > best.sectors {
			best = p
		}
	}
	if best.name == "" {
		found := "nothing that is known"
		if len(seen) > 0 {
			found = strings.Join(seen, ", ")
		}
		return "", "", &Error{Op: "find root file system", Path: disk,
			Err: fmt.Errorf("it holds %s; a root is ext2, ext3, ext4 or EROFS, on the disk itself or in a partition", found)}
	}
	return best.name, best.fstype, nil
}

// partitions lists a disk's partitions, as the kernel found them.
func partitions(sysBlock, disk string) ([]volume, error) {
	entries, err := os.ReadDir(sysBlock + "/" + disk)
	if err != nil {
		return nil, err
	}
	var out []volume
	for _, e := range entries {
		dir := sysBlock + "/" + disk + "/" + e.Name()
		if _, err := os.Stat(dir + "/partition"); err != nil {
			continue
		}
		size, err := os.ReadFile(dir + "/size")
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(size)), 10, 64)
		if err != nil {
			return nil, &Error{Op: "size of partition", Path: e.Name(), Err: err}
		}
		out = append(out, volume{name: e.Name(), sectors: n})
	}
	return out, nil
}

// probe says what file system a block device holds: one of rootTypes if the
// kernel can mount it, another name if it is known, "" if not.
func probe(name string) (string, error) {
	f, err := os.Open("/dev/" + name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fstype, err := fileSystem(f)
	if err != nil {
		return "", &Error{Op: "read", Path: "/dev/" + name, Err: err}
	}
	return fstype, nil
}

// fileSystem knows file systems by the magic numbers of their superblocks.
func fileSystem(r io.ReaderAt) (string, error) {
	for _, m := range []struct {
		offset int64
		magic  string
		name   string
	}{
		{1024, "\xe2\xe1\xf5\xe0", "erofs"},
		{1024 + 0x38, "\x53\xef", "ext4"}, // ext2 and ext3 too: one driver mounts all
		{0, "XFSB", "xfs"},
		{0x10040, "_BHRfS_M", "btrfs"},
		{0, "hsqs", "squashfs"},
		{1024, "\x10\x20\xf5\xf2", "f2fs"},
		{0x36, "FAT", "fat"},
		{0x52, "FAT32", "fat"},
		{3, "NTFS    ", "ntfs"},
		{32769, "CD001", "iso9660"},
		{0, "LUKS\xba\xbe", "LUKS (encrypted)"},
		{512, "LABELONE", "LVM"},
	} {
		got := make([]byte, len(m.magic))
		_, err := r.ReadAt(got, m.offset)
		if errors.Is(err, io.EOF) {
			continue // the device is smaller
		}
		if err != nil {
			return "", err
		}
		if string(got) == m.magic {
			return m.name, nil
		}
	}
	return "", nil
}

// findDisk returns the name of the disk with a serial, "" if there is none.
func findDisk(sysBlock, serial string) (string, error) {
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		got, err := os.ReadFile(sysBlock + "/" + e.Name() + "/serial")
		if err == nil && strings.TrimRight(string(got), "\x00\n ") == serial {
			return e.Name(), nil
		}
	}
	return "", nil
}
