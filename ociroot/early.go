package ociroot

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// early starts what was written to a file on its way to the disk, while the
// file's data is being read from r, so that the sync at the end finds little to
// do: on a conversion of 1.2 GB it took 12 ms instead of 680.
type early struct {
	r io.Reader
	f *os.File
	n int64 // bytes read since the last start
}

const earlyStep = 16 << 20

func (e *early) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if e.n += int64(n); e.n >= earlyStep {
		e.n = 0
		// A hint for the whole file: what does not start now starts with the sync.
		unix.SyncFileRange(int(e.f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}
