package hostile

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// chainsEnv sets how many chains TestMalformedChains makes in all.
const chainsEnv = "SANDPIT_TEST_CHAINS"

// TestMalformedChains sends random malformed chains to every device: requests
// that make no sense in chains that do, and now and then a chain or a ring that
// makes none either. Nothing panics, nothing takes longer than a second, and
// nothing is left over: memory, goroutines, descriptors. 10⁸ chains with
// SANDPIT_TEST_FULL.
func TestMalformedChains(t *testing.T) {
	total := 200_000
	if full() {
		total = 100_000_000
	}
	if s := os.Getenv(chainsEnv); s != "" {
		var err error
		total, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	for _, name := range subjectNames {
		t.Run(name, func(t *testing.T) {
			warm(t)
			before := takeStock(t)
			t.Run("run", func(t *testing.T) {
				m := newMill(t, name)
				start := time.Now()
				for m.chains < total/len(subjectNames) {
					m.batch()
				}
				t.Logf("%d chains, %d resets, %.0f chains/s, longest batch %v, and %v without a processor",
					m.chains, m.resets, float64(m.chains)/time.Since(start).Seconds(), m.longest, m.stalled)
				require.NotZero(t, m.resets, "no ring was malformed")
				limit := 10 * time.Second // on a crowded machine
				if full() {
					limit = time.Second
				}
				require.Less(t, m.longest, limit)
				w := &attack{TB: t, w: m.w, s: m.s}
				w.alive()
			})
			before.compare(t)
		})
	}
}

// warm has made once what is made once in a process.
func warm(t *testing.T) {
	t.Run("warm", func(t *testing.T) {
		s := newSubject(t, "console")
		(&attack{TB: t, w: inProcess(t, s, false), s: s}).alive()
	})
}

// stock is what must not grow.
type stock struct {
	heap       uint64
	goroutines int
	files      int
}

func takeStock(t *testing.T) stock {
	t.Helper()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return stock{m.HeapAlloc, runtime.NumGoroutine(), len(files)}
}

func (s stock) compare(t *testing.T) {
	t.Helper()
	var now stock
	for range 500 { // connections' goroutines end a little later
		if now = takeStock(t); now.goroutines <= s.goroutines && now.files <= s.files {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.LessOrEqual(t, now.goroutines, s.goroutines, "goroutines")
	require.LessOrEqual(t, now.files, s.files, "descriptors")
	require.Less(t, int64(now.heap)-int64(s.heap), int64(8<<20), "memory")
	t.Logf("memory %+d bytes", int64(now.heap)-int64(s.heap))
}

// mill makes malformed chains for one device.
type mill struct {
	t       testing.TB
	w       *world
	s       *subject
	rnd     *rand.Rand
	d       *vt.Driver
	r       *vt.Ring
	replies []*vt.Ring // of queues that the device fills
	scratch guestmem.GPA
	down    bool // to be started anew

	chains, resets int
	longest        time.Duration // of a batch, while this process ran
	stalled        time.Duration // the longest that it did not
}

const (
	millSlots = 16
	millSlot  = 512
)

func newMill(t testing.TB, name string) *mill {
	s := newSubject(t, name)
	// Mapped memory: the driver writes beside the device, which is a race.
	return &mill{t: t, w: inProcess(t, s, true), s: s, rnd: rand.New(rand.NewPCG(1, uint64(len(name)))), down: true}
}

func (m *mill) must(err error) {
	if err != nil {
		m.t.Helper()
		m.t.Fatal(err)
	}
}

// start starts the device, with other queues each time.
func (m *mill) start() {
	m.d = vt.NewOver(m.t, m.w.regs, m.w.ram, vt.Config{
		QueueSize: 1 << (3 + m.rnd.IntN(5)), Without: uint64(m.rnd.IntN(4)) << 28, MemBase: subjectBase, MemSize: subjectSize,
	})
	m.d.Start()
	m.r = m.d.Ring(m.s.queue)
	m.replies = nil
	m.scratch = m.d.Alloc(millSlots*millSlot, 4096)
	for _, v := range m.s.victims {
		if r := m.d.Ring(v.queue); v.trigger != nil {
			m.replies = append(m.replies, r)
			for i := range min(r.Size, 16) {
				r.SetDesc(i, vt.Desc{Addr: m.d.Alloc(256, 16), Len: 256, Flags: vt.Write})
				r.Offer(i)
			}
			r.Kick()
		}
	}
	m.down = false
	m.resets++
}

// lengths are the interesting ones.
var lengths = []uint32{0, 1, 2, 3, 4, 5, 15, 16, 17, 20, 43, 44, 45, 64, 100, 256, 511, 512}

// batch offers some chains and waits until the device is through with them, or
// has given up.
func (m *mill) batch() {
	if m.down {
		m.start()
	}
	n, broken := 0, false
	for next := uint16(0); next+4 <= m.r.Size; n++ {
		head := next
		next += m.chain(next)
		if m.rnd.IntN(256) == 0 {
			m.spoil(head)
			broken = true
		}
		m.r.Offer(head)
	}
	m.chains += n
	if m.rnd.IntN(1024) == 0 {
		m.r.SetAvailIdx(uint16(m.rnd.Uint32()))
		broken = true
	}
	m.r.SetUsedEvent(uint16(m.rnd.Uint32()))
	start := time.Now()
	last, stalled := start, time.Duration(0)
	m.r.Kick()
	for i := 0; m.r.DeviceUsedIdx() != m.r.AvailIdx; i++ {
		now := time.Now()
		if gap := now.Sub(last); gap > 20*time.Millisecond {
			stalled += gap // the host did not run us, so it may not have run the device
		}
		last = now
		waited := now.Sub(start)
		if (i%64 == 63 || waited > time.Millisecond) && m.d.NeedsReset() {
			m.down = true
			break
		}
		if broken && waited > time.Millisecond {
			m.down = true // what is awaited never comes: a ring that lies need not be told so
			break
		}
		if waited > 10*time.Second {
			m.t.Fatalf("wedged: used %d, available %d, status %#x", m.r.DeviceUsedIdx(), m.r.AvailIdx, m.d.Status())
		}
		if runtime.Gosched(); waited > time.Millisecond {
			time.Sleep(20 * time.Microsecond)
		}
	}
	m.longest = max(m.longest, time.Since(start)-stalled)
	m.stalled = max(m.stalled, stalled)
	m.r.UsedIdx = m.r.DeviceUsedIdx()
	for _, r := range m.replies {
		for used := r.DeviceUsedIdx(); r.UsedIdx != used && !m.down; r.UsedIdx++ {
			id, err := m.w.ram.LoadUint32(r.Used + 4 + 8*guestmem.GPA(r.UsedIdx%r.Size))
			m.must(err)
			r.Offer(uint16(id))
		}
		r.Kick()
	}
}

// chain writes a chain of up to four descriptors from head on, whose request is
// a good one with some of its bytes changed, and whose parts are of any length.
// It returns how many descriptors it took.
func (m *mill) chain(head uint16) uint16 {
	slot := m.scratch + guestmem.GPA(m.rnd.IntN(millSlots)*millSlot)
	request := append([]byte(nil), m.s.request...)
	if m.s.vsock != nil {
		request = packet(uint16(m.rnd.IntN(10)), uint32(m.rnd.IntN(4)), uint32(echoPort+m.rnd.IntN(2)), nil)
	}
	for range m.rnd.IntN(3) {
		if len(request) > 0 {
			request[m.rnd.IntN(len(request))] = byte(m.rnd.Uint32())
		}
	}
	m.must(m.w.ram.WriteAt(request, slot))
	k := uint16(m.rnd.IntN(4) + 1)
	readable := uint16(m.rnd.IntN(int(k) + 1))
	var table []byte
	indirect := m.d.Features>>28&1 != 0 && m.rnd.IntN(8) == 0
	first := head
	if indirect {
		first = 0
	}
	for i := range k {
		e := vt.Desc{Addr: slot, Len: lengths[m.rnd.IntN(len(lengths))], Flags: vt.Next, Next: first + i + 1}
		if i == 0 && m.rnd.IntN(4) != 0 {
			e.Len = uint32(len(request))
		}
		if i >= readable {
			// Not over the request of another chain, most of the time.
			e.Addr, e.Flags = slot+millSlot/2*guestmem.GPA(m.rnd.IntN(8)&1), e.Flags|vt.Write
			e.Len = min(e.Len, millSlot/2)
		}
		if i == k-1 {
			e.Flags &^= vt.Next
		}
		if indirect {
			table = append(table, raw(e)...)
		} else {
			m.r.SetDesc(head+i, e)
		}
	}
	if !indirect {
		return k
	}
	at := slot + millSlot/2
	m.must(m.w.ram.WriteAt(table, at))
	m.r.SetDesc(head, vt.Desc{Addr: at, Len: uint32(len(table)), Flags: vt.Indirect})
	return 1
}

// spoil makes a chain malformed in one of its fields.
func (m *mill) spoil(head uint16) {
	b := make([]byte, 16)
	at := m.r.Desc + 16*guestmem.GPA(head)
	m.must(m.w.ram.ReadAt(b, at))
	switch m.rnd.IntN(6) {
	case 0:
		binary.LittleEndian.PutUint64(b, m.rnd.Uint64())
	case 1:
		binary.LittleEndian.PutUint64(b, uint64(m.w.end)-uint64(m.rnd.IntN(64)))
	case 2:
		binary.LittleEndian.PutUint32(b[8:], m.rnd.Uint32())
	case 3:
		b[12] ^= byte(m.rnd.IntN(8))
	case 4:
		binary.LittleEndian.PutUint16(b[14:], uint16(m.rnd.Uint32()))
		b[12] |= vt.Next
	case 5: // the head itself, again
		binary.LittleEndian.PutUint16(b[14:], head)
		b[12] |= vt.Next
	}
	m.must(m.w.ram.StoreUint64(at, binary.LittleEndian.Uint64(b)))
	m.must(m.w.ram.StoreUint64(at+8, binary.LittleEndian.Uint64(b[8:])))
}
