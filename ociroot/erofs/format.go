package erofs

import (
	"encoding/binary"
	"hash/crc32"
)

// On-disk facts, fs/erofs/erofs_fs.h.
const (
	blockBits = 12
	blockSize = 1 << blockBits

	superMagic  = 0xe0f5e1e2
	superOffset = 1024
	superSize   = 128

	compatChecksum = 0x1 // EROFS_FEATURE_COMPAT_SB_CHKSUM
	compatMtime    = 0x2 // EROFS_FEATURE_COMPAT_MTIME

	incompatChunked = 0x4 // EROFS_FEATURE_INCOMPAT_CHUNKED_FILE

	inodeSize = 64 // struct erofs_inode_extended
	slotSize  = 32 // a NID counts these from the metadata's start
	extended  = 1  // EROFS_INODE_LAYOUT_EXTENDED, bit 0 of i_format

	layoutPlain  = 0 // EROFS_INODE_FLAT_PLAIN
	layoutInline = 2 // EROFS_INODE_FLAT_INLINE
	layoutChunks = 4 // EROFS_INODE_CHUNK_BASED

	direntSize = 12
	nameMax    = 255 // EROFS_NAME_LEN
	targetMax  = 4095

	chunkBits = 4 // log2 of the blocks of a chunk
	chunkSize = blockSize << chunkBits
	nullBlock = 0xffffffff // EROFS_NULL_ADDR, a chunk of zeros

	xattrHeaderSize = 12 // struct erofs_xattr_ibody_header
	xattrEntrySize  = 4  // struct erofs_xattr_entry

	// maxBlocks keeps every block's number below nullBlock.
	maxBlocks = nullBlock - 1
)

// Unix file types, as in stat's st_mode.
const (
	ModeType    = 0o170000
	ModeFIFO    = 0o010000
	ModeChar    = 0o020000
	ModeDir     = 0o040000
	ModeBlock   = 0o060000
	ModeRegular = 0o100000
	ModeSymlink = 0o120000
	ModeSocket  = 0o140000
)

// fileType is the type byte of a directory entry.
func fileType(mode uint16) byte {
	switch mode & ModeType {
	case ModeRegular:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFIFO:
		return 5
	case ModeSocket:
		return 6
	case ModeSymlink:
		return 7
	}
	return 0
}

// MakeDev encodes a device number as inodes have it, and says if it fits: 12
// bits for the major number, 20 for the minor, as in Linux itself.
func MakeDev(major, minor uint32) (dev uint32, ok bool) {
	if major >= 1<<12 || minor >= 1<<20 {
		return 0, false
	}
	return minor&0xff | major<<8 | minor&^0xff<<12, true
}

// superblock is what differs between images.
type superblock struct {
	options  Options
	root     uint16
	inodes   uint64
	blocks   uint32
	meta     uint32 // first block of the inodes
	xattrs   uint32 // first block of the shared attributes
	incompat uint32
}

// encode returns block 0.
func (sb superblock) encode() []byte {
	block := make([]byte, blockSize)
	b := block[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[8:], compatChecksum|compatMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], sb.root)
	le.PutUint64(b[16:], sb.inodes)
	if t := sb.options.BuildTime; !t.IsZero() {
		le.PutUint64(b[24:], uint64(t.Unix()))
		le.PutUint32(b[32:], uint32(t.Nanosecond()))
	}
	le.PutUint32(b[36:], sb.blocks)
	le.PutUint32(b[40:], sb.meta)
	le.PutUint32(b[44:], sb.xattrs)
	copy(b[48:64], sb.options.UUID[:])
	copy(b[64:79], sb.options.VolumeName) // 16 bytes, and the kernel wants a NUL
	le.PutUint32(b[80:], sb.incompat)
	// The kernel's crc32c starts at ~0 and is not inverted at the end; Go's is.
	le.PutUint32(b[4:], ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return block
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

func blocksOf(size int64) int64 { return (size + blockSize - 1) / blockSize }
