package virtio_test

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// FuzzChain lays the input over a queue's descriptors and walks what is offered.
func FuzzChain(f *testing.F) {
	raw := func(descs ...desc) (b []byte) {
		for _, e := range descs {
			b = binary.LittleEndian.AppendUint64(b, uint64(e.Addr))
			b = binary.LittleEndian.AppendUint32(b, e.Len)
			b = binary.LittleEndian.AppendUint16(b, e.Flags)
			b = binary.LittleEndian.AppendUint16(b, e.Next)
		}
		return b
	}
	f.Add(raw(desc{Addr: 0x1000, Len: 16, Flags: next, Next: 1}, desc{Addr: 0x1800, Len: 512, Flags: write}), []byte{0, 0, 1, 0}, uint16(2), true)
	f.Add(raw(desc{Addr: 16, Len: 32, Flags: indirect}, desc{Addr: 0x1000, Len: 4, Flags: next, Next: 1}, desc{Addr: 0x1000, Len: 8, Flags: write}), []byte{0, 0}, uint16(1), true)
	f.Add(raw(desc{Flags: next, Next: 1}, desc{Flags: next, Next: 0}), []byte{0, 0}, uint16(1), false)
	f.Add(raw(desc{Addr: 0x1fff, Len: 2}, desc{Addr: ^guestmem.GPA(0), Len: 0xffffffff}), []byte{0, 0, 1, 0}, uint16(2), false)
	f.Add([]byte{}, []byte{0xff, 0xff}, uint16(0x8000), true)

	const size, avail, used = 8, 0x800, 0x900
	f.Fuzz(func(t *testing.T, memory, heads []byte, idx uint16, feature bool) {
		mem, err := guestmem.NewHeap(guestmem.Range{Size: 0x2000}, guestmem.Range{Base: 0x4000, Size: 0x1000})
		require.NoError(t, err)
		b, err := mem.Bytes(0, 0x2000)
		require.NoError(t, err)
		copy(b[:avail], memory)
		copy(b[0x1000:], memory)
		copy(b[avail+4:used], heads)
		binary.LittleEndian.PutUint16(b[avail+2:], idx)
		q, err := virtio.NewQueue(mem, virtio.QueueState{Size: size, Avail: avail, Used: used, Indirect: feature, EventIdx: feature}, nil)
		require.NoError(t, err)
		var c virtio.Chain
		pops := 0
		for {
			ok, err := q.Pop(&c)
			if err != nil || !ok {
				break
			}
			pops++
			checkChain(t, mem, &c)
			before := bytes.Clone(b[:avail+4])
			status := c.TakeLastByte()
			c.Wrote(c.WritableLen() / 2)
			var header [16]byte
			_ = c.ReadFull(header[:])
			c.Skip(3)
			_, _ = c.Read(header[:])
			q.Push(c.Head(), c.Written())
			q.Notify()
			q.EnableNotifications()
			require.Equal(t, before, b[:avail+4])
			_ = status
		}
		require.LessOrEqual(t, pops, size, "T14")
		require.EqualValues(t, pops, q.State().NextUsed)
	})
}

// checkChain checks that every buffer is inside guest memory and that the sums
// add up.
func checkChain(t *testing.T, mem *guestmem.Memory, c *virtio.Chain) {
	t.Helper()
	total := 0
	for _, part := range []struct {
		bufs [][]byte
		n    int
	}{{c.Readable(), c.ReadableLen()}, {c.Writable(), c.WritableLen()}} {
		n := 0
		for _, p := range part.bufs {
			n += len(p)
			require.NotEmpty(t, p)
			require.Equal(t, len(p), cap(p))
			require.True(t, inside(mem, p))
		}
		require.Equal(t, part.n, n)
		total += n
	}
	require.LessOrEqual(t, total, virtio.MaxChainBytes)
}

func inside(mem *guestmem.Memory, p []byte) bool {
	at := reflect.ValueOf(p).Pointer()
	for _, r := range mem.Regions() {
		if at >= r.HVA() && at+uintptr(len(p)) <= r.HVA()+uintptr(r.Size) {
			return true
		}
	}
	return false
}

// seeds are programs that use a device as it is meant to be used, and a little
// differently.
func seeds(f *testing.F, request []byte, room uint16, prefix ...byte) {
	a := vt.Assembler(slices.Clip(prefix))
	f.Add([]byte(a.Load(0, 4).Load(0x100, 8).Start(0, 4).Chain(0, request, room).Chain(1, request, room).Settle().Poll(0)))
	f.Add([]byte(a.Start(0x20, 2).Chain(0, request, room).Settle().Poll(0).Chain(0, request, room).Reset().Start(0x10, 8).Chain(0, request, room)))
	f.Add([]byte(a.Start(0, 4).Fill(0x1000, request).
		Desc(0, 0, 0x1000, uint32(len(request)), vt.Next, 1).Desc(0, 1, 0x2000, uint32(room), vt.Write, 0).
		Offer(0, 0).Kick(0).Settle().Event(0, 7, 1).Offer(0, 0).Kick(0)))
	f.Add([]byte(a.Start(0, 4).Fill(0x1000, request).Table(0, 0, 3, 0x1000, 16, 0).Table(1, 0, 3, 0x1000, 512, vt.Write).
		Offer(0, 0).Kick(0).Offer(1, 0).Kick(1).Settle()))
	f.Add([]byte(a.Start(0, 4).MoveAvail(0, 0x8000).Kick(0).Settle().Reset().Start(0, 0).Offer(0, 0xff).Kick(0)))
	f.Add([]byte(a.Store32(vt.Status, 1).Store32(vt.Status, 3).Store32(vt.DriverFeaturesSel, 1).Store32(vt.DriverFeatures, 1).
		Store32(vt.Status, 11).Store32(vt.QueueSize, 8).Store32(vt.QueueDescLow, 0x1000).Store32(vt.QueueDriverLow, 0x2000).
		Store32(vt.QueueDeviceLow, 0x3000).Store32(vt.QueueReady, 1).Store32(vt.Status, 15).Store32(vt.QueueNotify, 0).
		Store32(vt.InterruptACK, 3).Store32(vt.Status, 0x8f).Store32(vt.Status, 0)))
}

var fuzzConfig = vt.Config{MemSize: 128 << 10, QueueSize: 16}

func FuzzMMIO(f *testing.F) {
	seeds(f, []byte("request"), 16)
	f.Fuzz(func(t *testing.T, input []byte) {
		p := &probe{sizes: []uint16{256, 16}, config: make([]byte, 16), serve: echo}
		d := vt.New(t, p, fuzzConfig)
		d.Run(input)
		d.CheckAlive()
		require.EqualValues(t, 4, d.Ring(0).Do([]byte("ping"), 8).Used)
	})
}

func FuzzBlk(f *testing.F) {
	for _, kind := range []uint32{blkIn, blkOut, blkFlush, blkGetID, 99} {
		seeds(f, header(kind, 1), 513, 0)
		seeds(f, header(kind, 1), 513, 1)
	}
	seeds(f, append(header(blkOut, 1), make([]byte, 128)...), 1, 0)
	seeds(f, append(header(blkDiscard, 0), ranges(1, 2, 0, 3, 1, 0)...), 1, 0)
	seeds(f, append(header(blkWriteZeroes, 0), ranges(1, 2, 1)...), 1, 0)
	full := bytes.Repeat([]byte{0x5a}, 64*512)
	f.Fuzz(func(t *testing.T, input []byte) { // its first bit: read-only
		readOnly := len(input) > 0 && input[0]&1 != 0
		back := &memDisk{data: bytes.Clone(full)}
		b := virtio.NewBlk(virtio.BlkConfig{Backend: back, ReadOnly: readOnly, ID: "fuzz"})
		d := &disk{vt.New(t, b, fuzzConfig), b, back}
		d.Run(input[min(len(input), 1):])
		d.CheckAlive()
		r, st := d.do(blkGetID, 0, nil, 20)
		require.EqualValues(t, blkOK, st)
		require.Equal(t, "fuzz", string(r.Data[:4]))
		if readOnly {
			require.True(t, bytes.Equal(full, back.data))
		}
	})
}

func FuzzRNG(f *testing.F) {
	seeds(f, nil, 64)
	f.Fuzz(func(t *testing.T, input []byte) {
		d := vt.New(t, virtio.NewRNG(zeroes{}), fuzzConfig)
		d.Run(input)
		d.CheckAlive()
		require.NotZero(t, d.Ring(0).Do(nil, 16).Used)
	})
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func FuzzConsole(f *testing.F) {
	seeds(f, []byte("text"), 64)
	f.Fuzz(func(t *testing.T, input []byte) {
		c := virtio.NewConsole(bytes.NewReader(input), nil, virtio.ConsoleOptions{Rate: 1 << 30})
		d := vt.New(t, c, fuzzConfig)
		d.Run(input)
		d.CheckAlive()
		d.Ring(1).Do([]byte("still here"), 0)
		require.NoError(t, c.Close())
	})
}

// FuzzPMemDriver runs a driver's program; FuzzPMem has the requests.
func FuzzPMemDriver(f *testing.F) {
	seeds(f, make([]byte, 4), 4)
	f.Fuzz(func(t *testing.T, input []byte) {
		d := vt.New(t, virtio.NewPMem(4<<30, 2<<20), fuzzConfig)
		d.Run(input)
		d.CheckAlive()
		require.EqualValues(t, 4, d.Ring(0).Do(make([]byte, 4), 4).Used)
	})
}

// FuzzVsock runs a driver's program; FuzzVsockPackets has the packets of
// connections.
func FuzzVsock(f *testing.F) {
	for _, op := range []uint16{guestOpRequest, guestOpRW, guestOpRst} {
		seeds(f, vsockHdr(op, 5, 1024, 0), 256)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		v := virtio.NewVsock(virtio.VsockConfig{})
		l, err := v.Listen(1024)
		require.NoError(t, err)
		d := vt.New(t, v, fuzzConfig)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		})
		t.Cleanup(func() { v.Close(); wg.Wait() })
		d.Run(input)
		d.CheckAlive()
		for tries := 0; ; tries++ { // the backlog may be full of what the program connected
			require.Less(t, tries, 10000)
			d.Ring(1).Do(vsockHdr(guestOpRequest, uint32(6+tries), 1024, 0), 0)
			if vsockOp(d.Ring(0).Do(nil, 256).Data) == guestOpResponse {
				break
			}
		}
	})
}

// FuzzIndirect lays the input over an indirect table, whose descriptor is the
// input's too, up to its address.
func FuzzIndirect(f *testing.F) {
	entry := func(e desc) []byte {
		b := binary.LittleEndian.AppendUint64(nil, uint64(e.Addr))
		b = binary.LittleEndian.AppendUint32(b, e.Len)
		b = binary.LittleEndian.AppendUint16(b, e.Flags)
		return binary.LittleEndian.AppendUint16(b, e.Next)
	}
	good := append(entry(desc{Addr: 0x100, Len: 16, Flags: next, Next: 1}), entry(desc{Addr: 0x200, Len: 16, Flags: write})...)
	f.Add(good, uint32(len(good)), uint16(indirect), false)
	f.Add(good, uint32(len(good)), uint16(indirect|write), true)
	f.Add(entry(desc{Addr: 0x2000, Len: 16, Flags: indirect}), uint32(16), uint16(indirect), false)
	f.Add(entry(desc{Addr: 0x100, Len: 1, Flags: next}), uint32(16), uint16(indirect|next), true)
	f.Add([]byte{}, uint32(0xfffffff0), uint16(indirect), false)
	f.Fuzz(func(t *testing.T, table []byte, n uint32, flags uint16, direct bool) {
		const size, avail, used, at = 8, 0x800, 0x900, 0x2000
		mem, err := guestmem.NewHeap(guestmem.Range{Size: 0x8000})
		require.NoError(t, err)
		b, err := mem.Bytes(0, 0x8000)
		require.NoError(t, err)
		copy(b[at:], table)
		head := 0
		if direct { // a direct descriptor comes first
			copy(b, entry(desc{Addr: 0x400, Len: 7, Flags: next, Next: 1}))
			head = 1
		}
		copy(b[16*head:], entry(desc{Addr: at, Len: n, Flags: flags | indirect}))
		binary.LittleEndian.PutUint16(b[avail+2:], 1)
		before := bytes.Clone(b)
		q, err := virtio.NewQueue(mem, virtio.QueueState{Size: size, Avail: avail, Used: used, Indirect: true}, nil)
		require.NoError(t, err)
		var c virtio.Chain
		ok, err := q.Pop(&c)
		require.Equal(t, err == nil, ok)
		require.Equal(t, before, b, "walking a chain writes nothing")
		if ok {
			require.Zero(t, flags&next, "T33")
			require.Zero(t, n%16)
			checkChain(t, mem, &c)
		}
	})
}

// FuzzQueue is a program of what a device and a driver do to one queue, against
// a model of which heads are in flight.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 0, 2, 0, 3, 0, 4, 0})
	f.Add([]byte{0, 1, 0, 2, 0, 3, 2, 0, 2, 0, 3, 1, 3, 2, 3, 2, 4, 0})
	f.Add([]byte{1, 200, 2, 0, 2, 0})
	f.Add([]byte{0, 0, 0, 0, 2, 0, 2, 0, 3, 0, 5, 0, 3, 0})
	f.Fuzz(func(t *testing.T, program []byte) {
		const size, avail, used = 8, 0x800, 0x900
		mem, err := guestmem.NewHeap(guestmem.Range{Size: 0x2000})
		require.NoError(t, err)
		signals := 0
		q, err := virtio.NewQueue(mem, virtio.QueueState{Size: size, Avail: avail, Used: used, EventIdx: len(program)%2 == 0}, func() { signals++ })
		require.NoError(t, err)
		var idx, pushed uint16
		inFlight := map[uint16]bool{}
		stopped, broken := false, false
		var c virtio.Chain
		for ; len(program) >= 2; program = program[2:] {
			v := uint16(program[1])
			switch program[0] % 7 {
			case 0: // the driver offers a head, that there is or not
				require.NoError(t, mem.StoreUint16(avail+4+2*guestmem.GPA(idx%size), v%(size+2)))
				idx++
				require.NoError(t, mem.StoreUint16(avail+2, idx))
			case 1: // and lies about how many
				idx += v
				require.NoError(t, mem.StoreUint16(avail+2, idx))
			case 2:
				ok, err := q.Pop(&c)
				require.False(t, ok && (stopped || broken))
				broken = broken || err != nil
				if ok {
					require.Less(t, c.Head(), uint16(size))
					require.False(t, inFlight[c.Head()], "T29")
					inFlight[c.Head()] = true
				}
			case 3:
				if inFlight[v] && !stopped {
					pushed++
				}
				delete(inFlight, v)
				q.Push(v, uint32(v))
			case 4:
				q.Notify()
			case 5:
				q.Stop()
				stopped = true
			case 6:
				require.NoError(t, mem.StoreUint16(avail+4+2*size, v)) // used_event
				q.EnableNotifications()
				q.DisableNotifications()
			}
			require.Equal(t, pushed, q.State().NextUsed, "T25")
			got, err := mem.LoadUint16(used + 2)
			require.NoError(t, err)
			require.Equal(t, pushed, got)
			require.LessOrEqual(t, signals, int(pushed))
		}
	})
}
