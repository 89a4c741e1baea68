package virtio

import (
	"encoding/binary"
	"sync/atomic"
)

// Block device, virtio 1.2 §5.2.

// blkGuestConfig is the kernel option that the guest's driver needs.
const blkGuestConfig = "CONFIG_VIRTIO_BLK"

// Feature bits, virtio 1.2 §5.2.3.
const (
	blkFeatureSizeMax     = 1 << 1
	blkFeatureSegMax      = 1 << 2
	blkFeatureReadOnly    = 1 << 5
	blkFeatureBlkSize     = 1 << 6
	blkFeatureFlush       = 1 << 9
	blkFeatureTopology    = 1 << 10
	blkFeatureDiscard     = 1 << 13
	blkFeatureWriteZeroes = 1 << 14
)

// Request types, virtio 1.2 §5.2.6.
const (
	blkIn          = 0
	blkOut         = 1
	blkFlush       = 4
	blkGetID       = 8
	blkDiscard     = 11
	blkWriteZeroes = 13
)

// Request status, virtio 1.2 §5.2.6.
const (
	blkOK      = 0
	blkIOError = 1
	blkUnsupp  = 2
)

const (
	sectorSize    = 512
	blkHeaderSize = 16
	blkIDSize     = 20
	blkRangeSize  = 16 // struct virtio_blk_discard_write_zeroes
	blkRangeUnmap = 1

	blkQueueSize = 256
	// A driver that keeps to these never meets the limits of a chain: 254
	// segments of 16 KiB, a header and a status (T20).
	blkSegMax  = 254
	blkSizeMax = 16 << 10

	// Bounds on the work of one request (T51). Zeroes may have to be written
	// one by one, so 32 MiB at a time; discards are one call each.
	blkMaxRanges        = 16
	blkMaxDiscard       = 4 << 20  // sectors: 2 GiB
	blkMaxWriteZeroes   = 64 << 10 // sectors: 32 MiB
	blkMaxZeroRanges    = 1
	blkDiscardAlignment = 8 // sectors: 4 KiB
)

// BlockBackend is where a disk's bytes are. Offsets and lengths are within Size.
// Transfers are complete unless they return an error; the count is how many
// bytes were transferred from the start. The slices alias guest memory, which
// changes under the backend's hands, and must not be kept or resliced.
type BlockBackend interface {
	PreadV(bufs [][]byte, off int64) (int, error)
	PwriteV(bufs [][]byte, off int64) (int, error)
	// Sync makes everything that was written durable.
	Sync() error
	// Size is the size in bytes. It is asked once.
	Size() int64
	// Discard gives the bytes up; reading them gives anything. Advice.
	Discard(off, n int64) error
	// WriteZeroes makes the bytes read as zeros; unmap allows to deallocate.
	WriteZeroes(off, n int64, unmap bool) error
}

// BlkConfig describes a disk.
type BlkConfig struct {
	Backend  BlockBackend
	ReadOnly bool   // refuses writes, whatever the driver thinks
	ID       string // serial number in the guest; at most 20 bytes count
}

// BlkStats counts what a disk did since it was made.
type BlkStats struct {
	Requests                uint64 // of all kinds, malformed ones too
	Errors                  uint64 // requests answered with an I/O error
	ReadBytes, WrittenBytes uint64
	Reads, Writes, Flushes  uint64
	Discards                uint64 // and write-zeroes
}

// Blk is a virtio block device with one queue. Requests are served one after
// the other by the queue's worker.
type Blk struct {
	backend  BlockBackend
	readOnly bool
	capacity uint64 // in sectors
	id       [blkIDSize]byte
	config   [60]byte

	stats struct {
		readBytes, writtenBytes                            atomic.Uint64
		reads, writes, flushes, discards, errors, requests atomic.Uint64
	}

	state   blkState // set before the worker starts; then the worker's
	workers Workers

	// The worker's scratch.
	header [blkHeaderSize]byte
	ranges [blkMaxRanges * blkRangeSize]byte
}

// blkState is what the driver chose.
type blkState struct {
	Features uint64
	// WriteThrough makes every write durable before it completes: the driver
	// did not accept FLUSH, so it cannot ask for it (virtio 1.2 §5.2.6.2).
	WriteThrough bool
}

// NewBlk returns a disk over cfg.Backend. What does not fill a sector at the end
// of the backend is not part of the disk.
func NewBlk(cfg BlkConfig) *Blk {
	b := &Blk{backend: cfg.Backend, readOnly: cfg.ReadOnly}
	if size := cfg.Backend.Size(); size > 0 {
		b.capacity = uint64(size) / sectorSize
	}
	copy(b.id[:], cfg.ID)

	// struct virtio_blk_config, virtio 1.2 §5.2.4.
	le := binary.LittleEndian
	le.PutUint64(b.config[0:], b.capacity)
	le.PutUint32(b.config[8:], blkSizeMax)
	le.PutUint32(b.config[12:], blkSegMax)
	le.PutUint32(b.config[20:], sectorSize) // blk_size
	b.config[24] = 3                        // physical_block_exp: 4 KiB
	le.PutUint16(b.config[26:], 8)          // min_io_size: 4 KiB
	if !b.readOnly {
		le.PutUint32(b.config[36:], blkMaxDiscard)
		le.PutUint32(b.config[40:], blkMaxRanges)
		le.PutUint32(b.config[44:], blkDiscardAlignment)
		le.PutUint32(b.config[48:], blkMaxWriteZeroes)
		le.PutUint32(b.config[52:], blkMaxZeroRanges)
		b.config[56] = 1 // write_zeroes_may_unmap
	}
	return b
}

// GuestConfigs lists the kernel options that the guest's driver needs.
func (b *Blk) GuestConfigs() []string { return []string{blkGuestConfig} }

// Type is TypeBlk.
func (b *Blk) Type() uint32 { return TypeBlk }

// Features are the block device's feature bits.
func (b *Blk) Features() uint64 {
	f := uint64(blkFeatureSizeMax | blkFeatureSegMax | blkFeatureBlkSize | blkFeatureFlush | blkFeatureTopology)
	if b.readOnly {
		return f | blkFeatureReadOnly
	}
	return f | blkFeatureDiscard | blkFeatureWriteZeroes
}

// QueueSizes is one queue.
func (b *Blk) QueueSizes() []uint16 { return []uint16{blkQueueSize} }

// ReadConfig reads the configuration, which never changes.
func (b *Blk) ReadConfig(off uint32, p []byte) { ReadConfigBytes(b.config[:], off, p) }

// WriteConfig does nothing: no field is the driver's.
func (b *Blk) WriteConfig(uint32, []byte) {}

// Activate starts the worker.
func (b *Blk) Activate(a Activation) error {
	b.state = blkState{Features: a.Features, WriteThrough: a.Features&blkFeatureFlush == 0}
	b.workers.Serve(a, a.Queues[0], b.serve)
	return nil
}

// Reset ends the worker once the request that it is serving is done.
func (b *Blk) Reset() {
	b.workers.Stop()
	b.state = blkState{}
}

// Stats returns the counters. It may be called at any time.
func (b *Blk) Stats() BlkStats {
	s := &b.stats
	return BlkStats{
		Requests: s.requests.Load(), Errors: s.errors.Load(),
		ReadBytes: s.readBytes.Load(), WrittenBytes: s.writtenBytes.Load(),
		Reads: s.reads.Load(), Writes: s.writes.Load(), Flushes: s.flushes.Load(),
		Discards: s.discards.Load(),
	}
}

// serve answers one request: a readable header, data, and a writable status
// byte, laid over buffers in any way (T46, virtio 1.2 §2.7.4).
func (b *Blk) serve(c *Chain) error {
	b.stats.requests.Add(1)
	status := c.TakeLastByte()
	if status == nil {
		return nil // nowhere to answer: the chain goes back as it came
	}
	code := byte(blkIOError)
	if c.ReadFull(b.header[:]) == nil { // the only look at it
		kind := binary.LittleEndian.Uint32(b.header[0:])
		sector := binary.LittleEndian.Uint64(b.header[8:])
		code = b.do(c, kind, sector)
	}
	if code == blkIOError {
		b.stats.errors.Add(1)
	}
	status[0] = code
	c.WroteLast()
	return nil
}

// do carries out a request and returns its status.
func (b *Blk) do(c *Chain, kind uint32, sector uint64) byte {
	switch kind {
	case blkIn:
		return b.read(c, sector)
	case blkOut:
		return b.write(c, sector)
	case blkFlush:
		b.stats.flushes.Add(1)
		return b.sync()
	case blkGetID:
		if c.WritableLen() < blkIDSize {
			return blkIOError
		}
		c.Write(b.id[:]) // fits
		return blkOK
	case blkDiscard:
		return b.discard(c, blkFeatureDiscard, blkMaxRanges, blkMaxDiscard)
	case blkWriteZeroes:
		return b.discard(c, blkFeatureWriteZeroes, blkMaxZeroRanges, blkMaxWriteZeroes)
	}
	return blkUnsupp // T50
}

// inside reports whether n sectors at sector are on the disk (T47).
func (b *Blk) inside(sector, n uint64) bool {
	return sector <= b.capacity && n <= b.capacity-sector
}

func (b *Blk) read(c *Chain, sector uint64) byte {
	n := c.WritableLen()
	if n%sectorSize != 0 || !b.inside(sector, uint64(n/sectorSize)) { // T47, T48
		return blkIOError
	}
	b.stats.reads.Add(1)
	if n == 0 {
		return blkOK
	}
	got, err := b.backend.PreadV(c.Writable(), int64(sector)*sectorSize)
	c.Wrote(max(got, 0)) // what came before an error is there too (T24)
	b.stats.readBytes.Add(uint64(max(got, 0)))
	if err != nil || got != n {
		return blkIOError
	}
	return blkOK
}

func (b *Blk) write(c *Chain, sector uint64) byte {
	n := c.ReadableLen()
	if b.readOnly || n%sectorSize != 0 || !b.inside(sector, uint64(n/sectorSize)) { // T47, T48, T49
		return blkIOError
	}
	b.stats.writes.Add(1)
	if n > 0 {
		put, err := b.backend.PwriteV(c.Readable(), int64(sector)*sectorSize)
		b.stats.writtenBytes.Add(uint64(max(put, 0)))
		if err != nil || put != n {
			return blkIOError
		}
	}
	if b.state.WriteThrough {
		return b.sync()
	}
	return blkOK
}

func (b *Blk) sync() byte {
	if b.readOnly {
		return blkOK // nothing was ever written
	}
	if b.backend.Sync() != nil {
		return blkIOError // T52
	}
	return blkOK
}

// discard serves DISCARD and WRITE_ZEROES: a list of ranges, all of which are
// checked before the first is touched (T51).
func (b *Blk) discard(c *Chain, feature uint64, maxRanges int, maxSectors uint32) byte {
	if b.state.Features&feature == 0 || b.readOnly { // T49
		return blkUnsupp
	}
	n := c.ReadableLen()
	if n == 0 || n%blkRangeSize != 0 || n/blkRangeSize > maxRanges {
		return blkIOError
	}
	list := b.ranges[:n]
	c.Read(list) // all of it: n is what there is
	b.stats.discards.Add(1)
	zero := feature == blkFeatureWriteZeroes
	for r := list; len(r) > 0; r = r[blkRangeSize:] {
		_, _, flags := parseRange(r)
		if flags&^blkRangeUnmap != 0 || flags&blkRangeUnmap != 0 && !zero {
			return blkUnsupp // §5.2.6.2
		}
	}
	for r := list; len(r) > 0; r = r[blkRangeSize:] {
		if sector, sectors, _ := parseRange(r); sectors > maxSectors || !b.inside(sector, uint64(sectors)) {
			return blkIOError
		}
	}
	for r := list; len(r) > 0; r = r[blkRangeSize:] {
		sector, sectors, flags := parseRange(r)
		if sectors == 0 {
			continue
		}
		off, size := int64(sector)*sectorSize, int64(sectors)*sectorSize
		var err error
		if zero {
			err = b.backend.WriteZeroes(off, size, flags&blkRangeUnmap != 0)
		} else {
			err = b.backend.Discard(off, size)
		}
		if err != nil {
			return blkIOError
		}
	}
	if zero && b.state.WriteThrough {
		return b.sync()
	}
	return blkOK
}

func parseRange(r []byte) (sector uint64, sectors, flags uint32) {
	le := binary.LittleEndian
	return le.Uint64(r), le.Uint32(r[8:]), le.Uint32(r[12:])
}
