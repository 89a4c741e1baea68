package agent

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Serials of the disks when the request names none.
const (
	defaultRootSerial  = "root"
	defaultUpperSerial = "upper"
)

// Directories of the initramfs in which the root is put together. They are
// out of sight once it has been entered.
const (
	lowerDir = "/lower"
	upperDir = "/upper"
	rootDir  = "/root"
)

// root is the mounted root file system.
type root struct {
	upper      *os.File // the upper's own root directory, to write it back; nil on tmpfs
	tmpfsUpper bool
	mountedNs  int64
}

// enterRoot mounts the disks, joins them and makes the result the root of the
// agent and of all that it starts.
func enterRoot(r *proto.SetupRequest) (*root, error) {
	disk, fstype, err := findRoot(r)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{lowerDir, upperDir, rootDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	mounted := &root{}
	if r.GetRootMode() == proto.RootMode_DIRECT {
		err = mounted.mountDirect(disk, fstype)
	} else {
		err = mounted.mountOverlay(r, disk, fstype)
	}
	if err != nil {
		return nil, err
	}
	if err := switchRoot(rootDir); err != nil {
		return nil, err
	}
	mounted.mountedNs = monotonic()
	return mounted, nil
}

// mountDirect makes a disk the root as it is.
func (m *root) mountDirect(disk, fstype string) (err error) {
	if err := mount("/dev/"+disk, rootDir, fstype, unix.MS_NOATIME, ""); err != nil {
		return err
	}
	m.upper, err = os.Open(rootDir)
	return err
}

// mountOverlay puts the upper over the root disk.
func (m *root) mountOverlay(r *proto.SetupRequest, disk, fstype string) error {
	upper, err := findDisk(sysBlock, serial(r.GetUpperSerial(), defaultUpperSerial))
	if err != nil {
		return err
	}
	readAhead(disk)
	options := ""
	if strings.HasPrefix(disk, "pmem") {
		// Programs and files are mapped where they are: no copy in the guest.
		options = "dax=always"
	}
	if fstype == "ext4" {
		// The disk refuses writes, so a journal that was left behind cannot be
		// replayed: what it holds is missed, as after a power failure.
		options = "noload"
	}
	if err := mount("/dev/"+disk, lowerDir, fstype, unix.MS_RDONLY, options); err != nil {
		return err
	}
	m.tmpfsUpper = upper == ""
	if err := mountUpper(m, upper, r.GetUpperTmpfsBytes()); err != nil {
		return err
	}
	if err := os.Mkdir(upperDir+"/work", 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	switch err := os.Mkdir(upperDir+"/upper", 0o755); {
	case err == nil:
		// The root directory's own attributes are the upper's.
		if err := copyRootAttributes(lowerDir, upperDir+"/upper"); err != nil {
			return err
		}
	case !os.IsExist(err):
		return err
	}
	options = "lowerdir=" + lowerDir + ",upperdir=" + upperDir + "/upper,workdir=" + upperDir + "/work"
	return mount("overlay", rootDir, "overlay", 0, options)
}

// copyRootAttributes gives a new upper's root the owner, mode and times of the
// image's.
func copyRootAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &Error{Op: "stat", Path: from, Err: err}
	}
	if err := unix.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
		return &Error{Op: "chown", Path: to, Err: err}
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return &Error{Op: "chmod", Path: to, Err: err}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, 0); err != nil {
		return &Error{Op: "utimes", Path: to, Err: err}
	}
	return nil
}

// rootReadAhead, in KiB: the image is most likely in the host's page cache, so
// what a request costs is its VM exit, and programs are read from one end to
// the other (the first command was measured to start a third sooner than with
// the kernel's 128).
const rootReadAhead = "1024"

// readAhead is a wish: the disk works without.
func readAhead(disk string) {
	_ = os.WriteFile("/sys/block/"+disk+"/queue/read_ahead_kb", []byte(rootReadAhead), 0)
}

func mountUpper(m *root, disk string, tmpfsBytes uint64) error {
	if disk == "" {
		options := "mode=0755"
		if tmpfsBytes > 0 {
			options += ",size=" + strconv.FormatUint(tmpfsBytes, 10)
		}
		return mount("upper", upperDir, "tmpfs", 0, options)
	}
	dev := "/dev/" + disk
	// The disk is a sparse file of zeros: writing zeros to its inode tables
	// would only fill it.
	if err := mount(dev, upperDir, "ext4", unix.MS_NOATIME, "noinit_itable"); err != nil {
		return err
	}
	var err error
	if m.upper, err = os.Open(upperDir); err != nil {
		return err
	}
	return growExt4(m.upper, dev)
}

// switchRoot makes dir the root directory. What the initramfs held is freed,
// but for the agent's binary, which runs.
func switchRoot(dir string) error {
	for _, d := range []string{"/dev", "/proc", "/sys"} { // fresh ones follow
		if err := unix.Unmount(d, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return &Error{Op: "unmount", Path: d, Err: err}
		}
	}
	_ = os.Remove("/init")
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return &Error{Op: "move root", Path: dir, Err: err}
	}
	if err := unix.Chroot("."); err != nil {
		return &Error{Op: "chroot", Path: dir, Err: err}
	}
	return os.Chdir("/")
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return &Error{Op: "mount " + fstype, Path: target, Err: err}
	}
	return nil
}

// ext4ResizeFS is EXT4_IOC_RESIZE_FS: _IOW('f', 16, __u64).
const ext4ResizeFS = 0x40086610

// growExt4 makes a mounted ext4 as large as its device.
func growExt4(dir *os.File, dev string) error {
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return &Error{Op: "size of", Path: dev, Err: err}
	}
	have, blockSize, err := ext4Blocks(f)
	if err != nil {
		return &Error{Op: "superblock of", Path: dev, Err: err}
	}
	want := uint64(size) / blockSize
	if want <= have {
		return nil
	}
	// The argument is a pointer to 64 bits, which is the size and the
	// alignment that matters of the one struct of that size that x/sys can
	// pass without unsafe.
	arg := unix.Winsize{Row: uint16(want), Col: uint16(want >> 16), Xpixel: uint16(want >> 32), Ypixel: uint16(want >> 48)}
	if err := unix.IoctlSetWinsize(int(dir.Fd()), ext4ResizeFS, &arg); err != nil {
		return &Error{Op: "grow", Path: dev, Err: err}
	}
	return nil
}

// ext4Blocks reads how many blocks an ext4 has, and their size.
func ext4Blocks(dev io.ReaderAt) (blocks, size uint64, err error) {
	var sb [1024]byte
	if _, err := dev.ReadAt(sb[:], 1024); err != nil {
		return 0, 0, err
	}
	const magic = 0xef53
	logSize := binary.LittleEndian.Uint32(sb[0x18:])
	if binary.LittleEndian.Uint16(sb[0x38:]) != magic || logSize > 6 {
		return 0, 0, errString("not ext4")
	}
	blocks = uint64(binary.LittleEndian.Uint32(sb[0x4:]))
	const incompat64bit = 0x80
	if binary.LittleEndian.Uint32(sb[0x60:])&incompat64bit != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(sb[0x150:])) << 32
	}
	return blocks, 1024 << logSize, nil
}
