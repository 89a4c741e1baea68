package qcow2

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"strings"
)

// The header, "Header" in the specification. Offsets of its fields.
const (
	magic = 0x514649fb // "QFI\xfb"

	offVersion         = 4
	offBackingFile     = 8
	offClusterBits     = 20
	offSize            = 24
	offCryptMethod     = 32
	offL1Size          = 36
	offL1Table         = 40
	offRefcountTable   = 48 // and its length after it
	offRefcountClus    = 56
	offSnapshotCount   = 60
	offSnapshots       = 64
	offIncompatible    = 72 // from here on version 3 only
	offAutoclear       = 88
	offRefcountOrder   = 96
	offHeaderLength    = 100
	offCompressionType = 104

	headerV2  = 72
	headerV3  = 104
	headerMax = 112 // what we look at
)

// Incompatible feature bits.
const (
	featureDirty        = 1 << 0
	featureCorrupt      = 1 << 1
	featureExternalData = 1 << 2
	featureCompression  = 1 << 3
	featureExtendedL2   = 1 << 4
	featuresKnown       = 1<<5 - 1
)

// autoclearRaw says that the external data file is a raw image.
const autoclearRaw = 1 << 1

// Compression types.
const (
	compressionDeflate = 0
	compressionZstd    = 1
)

// Limits, the same as QEMU's: an image that has more was not made by it, and
// what is kept in memory stays bounded whatever the header says.
const (
	minClusterBits   = 9
	maxClusterBits   = 21
	maxL1Bytes       = 32 << 20
	maxRefTableBytes = 8 << 20
	maxSnapshots     = 65536
	maxHostOffset    = 1 << 56 // bits 9 to 55 of a table's entry
	maxSize          = 1<<63 - 1<<maxClusterBits
)

// header is what the image's first bytes say, checked.
type header struct {
	version     uint32
	clusterBits uint
	size        int64 // of the disk, in bytes

	l1Offset  int64
	l1Entries int

	refTableOffset   int64
	refTableClusters int64
	refOrder         uint // a reference count has 1<<refOrder bits

	snapshots       uint32
	snapshotsOffset int64

	dirty, corrupt bool
	autoclear      uint64
	compression    uint8
}

// parseHeader reads and checks the header of a file of length bytes, of which p
// is the start. Everything is checked that can be without a look elsewhere.
func parseHeader(p []byte, length int64) (header, error) {
	be := binary.BigEndian
	var h header
	if len(p) < headerV2 {
		return h, malformed("file of %d bytes is too short for a header", length)
	}
	if be.Uint32(p) != magic {
		return h, malformed("no qcow2 magic number: is it another format?")
	}
	h.version = be.Uint32(p[offVersion:])
	if h.version != 2 && h.version != 3 {
		return h, unsupported("version %d, not 2 or 3: %s", h.version, remedyConvert)
	}
	var incompatible uint64
	h.refOrder = 4 // version 2
	headerLength := uint32(headerV2)
	if h.version == 3 {
		if len(p) < headerV3 {
			return h, malformed("file of %d bytes is too short for a header", length)
		}
		incompatible = be.Uint64(p[offIncompatible:])
		h.autoclear = be.Uint64(p[offAutoclear:])
		order := be.Uint32(p[offRefcountOrder:])
		if order > 6 {
			return h, malformed("refcount order %d is above 6", order)
		}
		h.refOrder = uint(order)
		headerLength = be.Uint32(p[offHeaderLength:])
		if headerLength < headerV3 || headerLength%8 != 0 {
			return h, malformed("header length %d", headerLength)
		}
	}
	clusterBits := be.Uint32(p[offClusterBits:])
	if clusterBits < minClusterBits || clusterBits > maxClusterBits {
		return h, malformed("clusters of 2^%d bytes, not of 2^%d to 2^%d", clusterBits, minClusterBits, maxClusterBits)
	}
	h.clusterBits = uint(clusterBits)
	if int64(headerLength) > min(length, h.clusterSize()) {
		return h, malformed("header length %d is beyond the first cluster or the file", headerLength)
	}

	if err := checkFeatures(p, incompatible); err != nil {
		return h, err
	}
	if h.autoclear&autoclearRaw != 0 {
		return h, malformed("feature bits speak of an external data file that it does not have")
	}
	h.dirty = incompatible&featureDirty != 0
	h.corrupt = incompatible&featureCorrupt != 0
	if h.version == 3 && headerLength > offCompressionType && len(p) > offCompressionType {
		h.compression = p[offCompressionType]
	}
	if err := h.checkCompression(incompatible&featureCompression != 0); err != nil {
		return h, err
	}
	return h, h.parseTables(p, length)
}

// checkFeatures refuses what we do not have.
func checkFeatures(p []byte, incompatible uint64) error {
	be := binary.BigEndian
	if unknown := incompatible &^ featuresKnown; unknown != 0 {
		var list []string
		for ; unknown != 0; unknown &= unknown - 1 {
			list = append(list, strconv.Itoa(bits.TrailingZeros64(unknown)))
		}
		return unsupported("unknown incompatible feature bits %s: %s", strings.Join(list, ", "), remedyConvert)
	}
	switch {
	case incompatible&featureExternalData != 0:
		return unsupported("its data is in an external file: %s", remedyConvert)
	case incompatible&featureExtendedL2 != 0:
		return unsupported("extended L2 entries: make a plain copy with `qemu-img convert -O qcow2 -o extended_l2=off IMAGE COPY`")
	case be.Uint64(p[offBackingFile:]) != 0:
		// Its name is never looked at: it would be a path that the image chose.
		return unsupported("it has a backing file: %s", remedyConvert)
	}
	switch method := be.Uint32(p[offCryptMethod:]); method {
	case 0:
		return nil
	case 1, 2:
		return unsupported("it is encrypted: make a plain copy with `qemu-img convert` and its key")
	default:
		return malformed("encryption method %d", method)
	}
}

func (h *header) checkCompression(bit bool) error {
	switch {
	case bit != (h.compression != compressionDeflate):
		return malformed("compression type %d contradicts the feature bit", h.compression)
	case h.compression > compressionZstd:
		return unsupported("compression type %d: %s", h.compression, remedyConvert)
	}
	return nil
}

// parseTables checks where the tables are, and how large.
func (h *header) parseTables(p []byte, length int64) error {
	be := binary.BigEndian
	size := be.Uint64(p[offSize:])
	if size > maxSize {
		return malformed("disk of %d bytes", size)
	}
	h.size = int64(size)
	l1 := int64(be.Uint32(p[offL1Size:]))
	perL1 := h.clusterSize() / 8 << h.clusterBits // bytes of the disk
	if l1*8 > maxL1Bytes {
		return malformed("L1 table of %d entries", l1)
	}
	if need := (h.size-1)/perL1 + 1; h.size > 0 && l1 < need {
		return malformed("L1 table of %d entries is too small for %d bytes", l1, h.size)
	}
	h.l1Entries = int(l1)
	var err error
	if h.l1Offset, err = h.place(p[offL1Table:], l1*8, length); err != nil {
		return malformed("L1 table %v", err)
	}
	h.refTableClusters = int64(be.Uint32(p[offRefcountClus:]))
	if h.refTableClusters == 0 || h.refTableClusters<<h.clusterBits > maxRefTableBytes {
		return malformed("refcount table of %d clusters", h.refTableClusters)
	}
	if h.refTableOffset, err = h.place(p[offRefcountTable:], h.refTableClusters<<h.clusterBits, length); err != nil {
		return malformed("refcount table %v", err)
	}
	h.snapshots = be.Uint32(p[offSnapshotCount:])
	if h.snapshots > maxSnapshots {
		return malformed("%d snapshots", h.snapshots)
	}
	if h.snapshots > 0 {
		if h.snapshotsOffset, err = h.place(p[offSnapshots:], 1, length); err != nil {
			return malformed("snapshot table %v", err)
		}
	}
	return nil
}

// place checks an offset at which there are n bytes. The file may end within
// the last cluster of them.
func (h *header) place(field []byte, n, length int64) (int64, error) {
	off := binary.BigEndian.Uint64(field)
	switch {
	case n == 0 && off == 0:
		return 0, nil
	case off&uint64(h.clusterSize()-1) != 0:
		return 0, placeError{off, "is not at a cluster's start"}
	case off == 0:
		return 0, placeError{off, "is in the header"}
	case off >= maxHostOffset || int64(off)+n > h.roundUp(length):
		return 0, placeError{off, "is outside the file"}
	}
	return int64(off), nil
}

type placeError struct {
	off  uint64
	what string
}

func (e placeError) Error() string { return "at " + strconv.FormatUint(e.off, 10) + " " + e.what }

func (h *header) clusterSize() int64 { return 1 << h.clusterBits }

// roundUp rounds up to whole clusters.
func (h *header) roundUp(n int64) int64 {
	return (n + h.clusterSize() - 1) &^ (h.clusterSize() - 1)
}
