package upper

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/assets"
)

//go:embed template.ext4.zst
var template []byte

// Sizes of an upper disk, in bytes.
const (
	MinSize = imageSize
	// MaxSize is how far the template's reserve of group descriptors lets the
	// file system grow.
	MaxSize = 2 << 40
)

// ErrSize reports a size outside MinSize to MaxSize.
var ErrSize = errors.New("size of an upper disk is out of range")

// Template is the pristine file system.
func Template() assets.Asset {
	return assets.Asset{
		Name:       "upper-template",
		SHA256:     imageSHA256(),
		Size:       imageSize,
		Compressed: template,
	}
}

// Create makes a new upper disk of size bytes, a multiple of 4096, at path,
// which must not exist, and returns it open for reading and writing. The file
// is sparse: it takes some 100 KiB of the host's disk until the guest writes.
// The template is kept in cacheDir.
func Create(cacheDir, path string, size int64) (_ *os.File, err error) {
	if size < MinSize || size > MaxSize || size%4096 != 0 {
		return nil, fmt.Errorf("%w: %d bytes; want a multiple of 4096 from %d to %d", ErrSize, size, int64(MinSize), int64(MaxSize))
	}
	src, err := Template().Open(cacheDir)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(path)
		}
	}()
	if err := copySparse(f, src); err != nil {
		return nil, &fs.PathError{Op: "copy the template to", Path: path, Err: err}
	}
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	return f, nil
}

// copySparse copies the parts of src that are not holes.
func copySparse(dst, src *os.File) error {
	buf := make([]byte, 64<<10)
	for off := int64(0); ; {
		begin, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO { // only a hole is left
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(src.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		part := io.NewSectionReader(src, begin, end-begin)
		if _, err := io.CopyBuffer(io.NewOffsetWriter(dst, begin), part, buf); err != nil {
			return err
		}
		off = end
	}
}
