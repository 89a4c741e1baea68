package qcow2

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
)

// Random programs of requests, in sectors, each of which a stamp tells apart.

const sector = 512

// event is a request as the crash test remembers it: what it made of which
// sectors, and how long the log of operations was before and after.
type event struct {
	first, n      int64 // sectors
	stamp         uint64
	maybe         bool // a discard, or it failed: any of the sectors may be as before
	sync          bool
	before, after int
}

// player runs requests on an image and knows what the disk should hold.
type player struct {
	im     *Image
	file   *memFile
	want   []uint64 // by sector; 0 is zeros
	events []event
	stamp  uint64
	r      *rand.Rand
	errors int
}

func newPlayer(im *Image, file *memFile, r *rand.Rand) *player {
	return &player{im: im, file: file, r: r, want: make([]uint64, im.Size()/sector), stamp: r.Uint64() >> 32 << 20}
}

// span picks sectors: often few, sometimes whole clusters, sometimes the end.
func (p *player) span() (first, n int64) {
	all := int64(len(p.want))
	per := max(p.im.ClusterSize()/sector, 1)
	switch p.r.IntN(5) {
	case 0:
		n = per * p.r.Int64N(20)
	case 1:
		n = p.r.Int64N(4*per) + 1
	default:
		n = p.r.Int64N(20) + 1
	}
	n = min(n, all)
	first = p.r.Int64N(all - n + 1)
	if p.r.IntN(3) == 0 {
		first = first / per * per
	}
	if p.r.IntN(20) == 0 {
		first = all - n
	}
	return first, n
}

// step runs one request.
func (p *player) step() error {
	first, n := p.span()
	e := event{first: first, n: n, before: len(p.file.log)}
	var err error
	switch k := p.r.IntN(20); {
	case k < 12:
		p.stamp++
		e.stamp = p.stamp
		var done int
		done, err = p.im.PwriteV(pieces(stamped(e.stamp, n), p.r), first*sector)
		if err != nil && done > int(n)*sector {
			return fmt.Errorf("wrote %d of %d bytes", done, n*sector)
		}
	case k < 14:
		err = p.im.Discard(first*sector, n*sector)
		e.maybe = true
	case k < 17:
		err = p.im.WriteZeroes(first*sector, n*sector, p.r.IntN(2) == 0)
	default:
		e.sync, e.n = true, 0
		err = p.im.Sync()
	}
	if e.after = len(p.file.log); err != nil {
		p.errors++
		e.maybe, e.sync = true, false
	}
	p.events = append(p.events, e)
	if e.sync || e.maybe {
		return p.refresh(first, e.n)
	}
	for i := first; i < first+e.n; i++ {
		p.want[i] = e.stamp
	}
	return nil
}

// refresh reads what a request made of sectors that it may have left alone.
func (p *player) refresh(first, n int64) error {
	buf := make([]byte, n*sector)
	if err := readAll(p.im, buf, first*sector); err != nil {
		return err
	}
	e := p.events[len(p.events)-1]
	for i := range n {
		got := binary.BigEndian.Uint64(buf[i*sector:])
		if got != e.stamp && got != p.want[first+i] {
			return fmt.Errorf("sector %d: %d, not %d or %d", first+i, got, e.stamp, p.want[first+i])
		}
		p.want[first+i] = got
	}
	return nil
}

// verify reads the disk.
func (p *player) verify() error {
	for first := int64(0); first < int64(len(p.want)); {
		n := min(p.r.Int64N(300)+1, int64(len(p.want))-first)
		buf := make([]byte, n*sector)
		if err := readAll(p.im, buf, first*sector); err != nil {
			return err
		}
		for i := range n {
			if err := checkStamp(buf[i*sector:][:sector], p.want[first+i]); err != nil {
				return fmt.Errorf("sector %d: %w", first+i, err)
			}
		}
		first += n
	}
	return nil
}

// admissible returns what each sector may hold after a crash at operation k: its
// content at the last Sync that was done by then, and all that came after.
func (p *player) admissible(initial []uint64, k int) [][]uint64 {
	may := make([][]uint64, len(p.want))
	for i := range may {
		may[i] = []uint64{initial[i]}
	}
	for _, e := range p.events {
		if e.before > k {
			break
		}
		if e.sync && e.after <= k {
			for i, list := range may {
				// Only discards, and what failed, leave more than one.
				keep := 0
				for j := range list {
					if list[j]&maybeBit == 0 {
						keep = j
					}
				}
				may[i] = slices.Clone(list[keep:])
			}
			continue
		}
		stamp := e.stamp
		if e.maybe {
			stamp |= maybeBit
		}
		for i := e.first; i < e.first+e.n; i++ {
			may[i] = append(may[i], stamp)
		}
	}
	return may
}

const maybeBit = 1 << 63

func stamped(stamp uint64, sectors int64) []byte {
	p := make([]byte, sectors*sector)
	for i := 0; i < len(p); i += 8 {
		binary.BigEndian.PutUint64(p[i:], stamp)
	}
	return p
}

func checkStamp(p []byte, want uint64) error {
	for i := 0; i < len(p); i += 8 {
		if got := binary.BigEndian.Uint64(p[i:]); got != want {
			return fmt.Errorf("byte %d: %d, not %d", i, got, want)
		}
	}
	return nil
}

// pieces cuts p as a driver might.
func pieces(p []byte, r *rand.Rand) [][]byte {
	var list [][]byte
	for len(p) > 0 {
		n := min(len(p), []int{0, 7, 512, 4096, 16 << 10, 1 << 20}[r.IntN(6)])
		list, p = append(list, p[:n]), p[n:]
	}
	return list
}

func readAll(im *Image, p []byte, off int64) error {
	n, err := im.PreadV(pieces(p, rand.New(rand.NewPCG(uint64(off), 0))), off)
	if err == nil && n != len(p) {
		err = fmt.Errorf("read %d of %d bytes", n, len(p))
	}
	return err
}
