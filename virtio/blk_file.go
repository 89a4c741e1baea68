package virtio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// FileBackend is a disk in a regular file or a block device, raw: byte n of the
// file is byte n of the disk, whatever the bytes look like. Data moves between
// the file and guest memory without a copy of ours.
type FileBackend struct {
	file     *os.File
	fd       int
	size     int64
	readOnly bool

	// What the file system turned out not to do; then it is not asked again.
	noPunch, noZero atomic.Bool
}

// NewFileBackend returns a backend over f, which stays the caller's to close,
// after the device's transport. It is read-only if readOnly is set or f was
// opened so.
func NewFileBackend(f *os.File, readOnly bool) (*FileBackend, error) {
	b := &FileBackend{file: f, fd: int(f.Fd()), readOnly: readOnly}
	var st unix.Stat_t
	if err := unix.Fstat(b.fd, &st); err != nil {
		return nil, &Error{"open disk", &os.PathError{Op: "fstat", Path: f.Name(), Err: err}}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		b.size = st.Size
	case unix.S_IFBLK:
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, &Error{"open disk", err}
		}
		b.size = size
	default:
		return nil, &Error{"open disk", fmt.Errorf("%s is neither a regular file nor a block device", f.Name())}
	}
	flags, err := unix.FcntlInt(uintptr(b.fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, &Error{"open disk", os.NewSyscallError("fcntl", err)}
	}
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		b.readOnly = true
	case unix.O_WRONLY:
		return nil, &Error{"open disk", fmt.Errorf("%s is open for writing only", f.Name())}
	}
	return b, nil
}

// ReadOnly reports whether writes are refused.
func (b *FileBackend) ReadOnly() bool { return b.readOnly }

// Size is the file's size when the backend was made.
func (b *FileBackend) Size() int64 { return b.size }

// PreadV fills bufs from off. A file that has become shorter gives
// io.ErrUnexpectedEOF.
func (b *FileBackend) PreadV(bufs [][]byte, off int64) (int, error) {
	return transfer("preadv", b.fd, unix.Preadv, bufs, off)
}

// PwriteV writes bufs at off.
func (b *FileBackend) PwriteV(bufs [][]byte, off int64) (int, error) {
	if b.readOnly {
		return 0, unix.EROFS
	}
	return transfer("pwritev", b.fd, unix.Pwritev, bufs, off)
}

// transfer repeats call until bufs are done: interrupted and short transfers go
// on where they stopped.
func transfer(name string, fd int, call func(int, [][]byte, int64) (int, error), bufs [][]byte, off int64) (int, error) {
	want := 0
	for _, p := range bufs {
		want += len(p)
	}
	done := 0
	rest := bufs
	for done < want {
		n, err := call(fd, rest, off+int64(done))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return done, os.NewSyscallError(name, err)
		case n == 0:
			return done, io.ErrUnexpectedEOF
		}
		if done += n; done < want {
			rest = after(bufs, done) // rare, so it may allocate
		}
	}
	return done, nil
}

// after is a copy of bufs without the first n bytes.
func after(bufs [][]byte, n int) [][]byte {
	for n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	rest := append([][]byte(nil), bufs...)
	rest[0] = rest[0][n:]
	return rest
}

// Sync makes the data durable, and the metadata needed to find it.
func (b *FileBackend) Sync() error {
	return retry("fdatasync", func() error { return unix.Fdatasync(b.fd) })
}

func retry(name string, f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError(name, err)
		}
	}
}

// Discard punches a hole. Where the file system has none it does nothing.
func (b *FileBackend) Discard(off, n int64) error {
	if b.readOnly {
		return unix.EROFS
	}
	if err := b.fallocate(&b.noPunch, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n); !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return nil
}

// WriteZeroes punches a hole if it may, else asks for a zeroed range, else
// writes zeros.
func (b *FileBackend) WriteZeroes(off, n int64, unmap bool) error {
	if b.readOnly {
		return unix.EROFS
	}
	if unmap {
		if err := b.fallocate(&b.noPunch, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n); !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	if err := b.fallocate(&b.noZero, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n); !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	zeros := make([]byte, min(n, 256<<10))
	for n > 0 {
		k, err := b.PwriteV([][]byte{zeros[:min(n, int64(len(zeros)))]}, off)
		if err != nil {
			return err
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

// fallocate returns EOPNOTSUPP, and remembers it in unsupported, if the file
// cannot do this.
func (b *FileBackend) fallocate(unsupported *atomic.Bool, mode uint32, off, n int64) error {
	if unsupported.Load() {
		return unix.EOPNOTSUPP
	}
	err := retry("fallocate", func() error { return unix.Fallocate(b.fd, mode, off, n) })
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		unsupported.Store(true)
		return unix.EOPNOTSUPP
	case errors.Is(err, unix.EINVAL): // a block device, and not its granularity
		return unix.EOPNOTSUPP
	}
	return err
}
