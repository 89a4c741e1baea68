package hostile

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
	"github.com/sandpit-vm/sandpit/vmm"
)

// Where drivers allocate, the same in both worlds.
const (
	subjectBase               = vt.HighBase
	subjectSize               = 8 << 20
	otherBase                 = vt.HighBase + 16<<20
	otherSize                 = 1 << 20
	inProcessRAM              = 24 << 20 // from HighBase
	hole         guestmem.GPA = 0xe0000000
	lastByte     guestmem.GPA = 1<<64 - 1
)

// world is a machine with the device under attack and a bystander.
type world struct {
	regs, otherRegs vt.Registers
	ram             vt.Memory
	mem             *guestmem.Memory // the host's view
	end             guestmem.GPA     // of RAM
	guest           *Guest           // nil in process
	irqs            func() int       // interrupts of the device under attack
	other           *vt.Driver       // the bystander's, once it runs

	second sync.WaitGroup // in process: the other processor
}

// counter is an interrupt line.
type counter struct{ n atomic.Int64 }

func (c *counter) Trigger() error { c.n.Add(1); return nil }

// inProcess is a world without a virtual machine. Its memory is Go's, where the
// race detector sees it, or mapped, where a driver may write beside the device.
func inProcess(t testing.TB, s *subject, mapped bool) *world {
	t.Helper()
	ranges := []guestmem.Range{{Base: vt.LowBase, Size: vt.LowSize}, {Base: vt.HighBase, Size: inProcessRAM}}
	newMem := guestmem.NewHeap
	if mapped {
		newMem = func(r ...guestmem.Range) (*guestmem.Memory, error) { return guestmem.NewMemfd("hostile", r...) }
	}
	mem, err := newMem(ranges...)
	if err != nil {
		t.Fatal(err)
	}
	irq, otherIRQ := &counter{}, &counter{}
	m, err := virtio.NewMMIO(s.dev, mem, irq, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := virtio.NewMMIO(bystander(), mem, otherIRQ, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		regs: m, otherRegs: other, ram: mem, mem: mem, end: vt.HighBase + inProcessRAM,
		irqs: func() int { return int(irq.n.Load()) },
	}
	t.Cleanup(func() {
		w.second.Wait()
		for _, c := range []io.Closer{m, other, mem} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// inGuest is a world in a virtual machine.
func inGuest(t *testing.T, s *subject) *world {
	t.Helper()
	kvmtest.NeedKVM(t)
	g := NewGuest()
	m, err := vmm.New(vmm.Config{
		CPUs: 2, Memory: Memory, Load: g.Load, PIO: g.Windows(),
		Virtio: []vmm.VirtioDevice{{Name: s.name, Device: s.dev}, {Name: "other", Device: bystander()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if r, err := m.Run(ctx); err != nil || r != (vmm.Stopped{}) {
			t.Errorf("the machine ended by itself: %v, %v", r, err)
			g.End()
		}
	}()
	t.Cleanup(func() {
		cancel()
		g.End()
		<-ended
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := g.Setup(true); err != nil {
		t.Fatal(err)
	}
	base, irq := boot.MMIODevice(0)
	otherAt, _ := boot.MMIODevice(1)
	fail := func(err error) { panic(wedged{err}) }
	return &world{
		regs:      Window{G: g, Base: base, Fail: fail},
		otherRegs: Window{G: g, Base: otherAt, Fail: fail},
		ram:       RAM{g}, mem: m.Memory(), end: Memory, guest: g,
		irqs: func() int {
			n, err := g.Interrupts(irq)
			if err != nil {
				fail(err)
			}
			return int(n)
		},
	}
}

// wedged is what an attack panics with when its vCPU does not come back.
type wedged struct{ err error }

// bystander is the device that is not attacked.
func bystander() virtio.Device { return virtio.NewRNG(zeros{}) }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// storm begins to store v at off of the window n times, on the other processor.
func (a *attack) storm(off uint64, v uint32, n int) {
	if a.w.guest != nil {
		a.must(a.w.guest.CPU(1).Storm(a.w.regs.(Window).Base+off, v, n))
		return
	}
	a.w.second.Go(func() {
		for range n {
			a.w.regs.Write(off, binary.LittleEndian.AppendUint32(nil, v))
		}
	})
}

// scribble begins to write patterns of whole words to addr over and over, on the
// other processor.
func (a *attack) scribble(addr guestmem.GPA, patterns [4][]byte, n int) {
	if a.w.guest != nil {
		a.flush()
		a.must(a.w.guest.CPU(1).Scribble(uint64(addr), patterns, n))
		return
	}
	a.w.second.Go(func() {
		for range n {
			for _, p := range patterns {
				for i := 0; i < len(p); i += 8 {
					_ = a.w.mem.StoreUint64(addr+guestmem.GPA(i), binary.LittleEndian.Uint64(p[i:]))
				}
			}
		}
	})
}

// join waits for the other processor.
func (a *attack) join() {
	if a.w.guest != nil {
		a.must(a.w.guest.CPU(1).Flush())
		return
	}
	a.w.second.Wait()
}

// flush has everything carried out that is posted.
func (a *attack) flush() {
	if a.w.guest != nil {
		a.must(a.w.guest.CPU(0).Flush())
	}
}

func (a *attack) must(err error) {
	if err != nil {
		panic(wedged{err})
	}
}

// scale is n, or less of it in a virtual machine, where an access takes a
// hundred times as long, or much more if everything is to run.
func (a *attack) scale(n int) int {
	if full() {
		return n * 50
	}
	if a.w.guest != nil {
		return max(n/10, 1)
	}
	return n
}

// trial is a testing.TB for what is tried out: it fails alone.
type trial struct {
	testing.TB
	why string
}

type failed struct{}

func (t *trial) Helper() {}
func (t *trial) Fatalf(format string, args ...any) {
	t.why = fmt.Sprintf(format, args...)
	panic(failed{})
}
func (t *trial) Errorf(format string, args ...any) { t.Fatalf(format, args...) }
func (t *trial) FailNow()                          { t.Fatalf("failed") }
func (t *trial) Fatal(args ...any)                 { t.Fatalf("%s", fmt.Sprint(args...)) }
func (t *trial) Error(args ...any)                 { t.Fatalf("%s", fmt.Sprint(args...)) }

// try runs f and returns why it failed, or nothing.
func try(t testing.TB, f func(testing.TB)) (why string, stuck bool) {
	tr := &trial{TB: t}
	defer func() {
		switch v := recover().(type) {
		case nil:
		case failed:
			why = tr.why
		case wedged:
			why, stuck = v.err.Error(), true
		default:
			panic(v)
		}
	}()
	f(tr)
	return "", false
}

// settle gives the device a moment to do what it should not.
func settle() { time.Sleep(5 * time.Millisecond) }
