package qcow2

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// storage is the file that holds an image. Tests put one beneath an image that
// fails, or forgets what was not flushed.
type storage interface {
	// preadv and pwritev are complete or return an error.
	preadv(bufs [][]byte, off int64) (int, error)
	pwritev(bufs [][]byte, off int64) (int, error)
	// flush makes what was written durable. It is the only thing that orders
	// writes with respect to a loss of power.
	flush() error
	// grow makes the file longer; the new bytes are zeros.
	grow(size int64) error
	// punch gives space back to the file system. Advice.
	punch(off, n int64)
}

// maxIOV is the kernel's limit on the buffers of one transfer (UIO_MAXIOV).
const maxIOV = 1024

// hostFile is storage in a regular file or a block device.
type hostFile struct {
	file    *os.File // keeps fd open
	fd      int
	device  bool
	noPunch bool // the file system turned out not to do it
}

// openStorage looks at an open file: its length and whether it can be written.
func openStorage(f *os.File) (s *hostFile, length int64, writable bool, err error) {
	if f == nil {
		return nil, 0, false, fmt.Errorf("%w: none", ErrFile)
	}
	s = &hostFile{file: f, fd: int(f.Fd())}
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return nil, 0, false, &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		length = st.Size
	case unix.S_IFBLK:
		s.device = true
		if length, err = f.Seek(0, io.SeekEnd); err != nil {
			return nil, 0, false, err
		}
	default:
		return nil, 0, false, fmt.Errorf("%w: %s is neither a regular file nor a block device", ErrFile, f.Name())
	}
	flags, err := unix.FcntlInt(uintptr(s.fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, 0, false, os.NewSyscallError("fcntl", err)
	}
	switch {
	case flags&unix.O_ACCMODE == unix.O_WRONLY:
		return nil, 0, false, fmt.Errorf("%w: %s is open for writing only", ErrFile, f.Name())
	case flags&unix.O_APPEND != 0 && flags&unix.O_ACCMODE == unix.O_RDWR:
		// pwrite(2), BUGS: the offset would be ignored.
		return nil, 0, false, fmt.Errorf("%w: %s is open for appending", ErrFile, f.Name())
	case flags&unix.O_DIRECT != 0:
		return nil, 0, false, fmt.Errorf("%w: %s is open for direct transfers, which the image's tables are too small for", ErrFile, f.Name())
	}
	return s, length, flags&unix.O_ACCMODE == unix.O_RDWR, nil
}

func (s *hostFile) preadv(bufs [][]byte, off int64) (int, error) {
	return transfer("preadv", s.fd, unix.Preadv, bufs, off)
}

func (s *hostFile) pwritev(bufs [][]byte, off int64) (int, error) {
	return transfer("pwritev", s.fd, unix.Pwritev, bufs, off)
}

// transfer repeats call until bufs, which it may reslice, are done.
func transfer(name string, fd int, call func(int, [][]byte, int64) (int, error), bufs [][]byte, off int64) (int, error) {
	done := 0
	for {
		for len(bufs) > 0 && len(bufs[0]) == 0 {
			bufs = bufs[1:]
		}
		if len(bufs) == 0 {
			return done, nil
		}
		n, err := call(fd, bufs[:min(len(bufs), maxIOV)], off+int64(done))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return done, os.NewSyscallError(name, err)
		case n == 0:
			return done, io.ErrUnexpectedEOF
		}
		done += n
		for n > 0 {
			k := min(n, len(bufs[0]))
			bufs[0] = bufs[0][k:]
			if n -= k; len(bufs[0]) == 0 {
				bufs = bufs[1:]
			}
		}
	}
}

func (s *hostFile) flush() error {
	return retry("fdatasync", func() error { return unix.Fdatasync(s.fd) })
}

func (s *hostFile) grow(size int64) error {
	if s.device {
		return os.NewSyscallError("grow the device", unix.ENOSPC)
	}
	return retry("ftruncate", func() error { return unix.Ftruncate(s.fd, size) })
}

func (s *hostFile) punch(off, n int64) {
	if s.noPunch {
		return
	}
	err := retry("fallocate", func() error {
		return unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	// A device refuses what is not its granularity with EINVAL.
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		s.noPunch = true
	}
}

func retry(name string, f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError(name, err)
		}
	}
}
