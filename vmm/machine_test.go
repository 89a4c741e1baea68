package vmm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/vmm"
)

// realMode loads code at 0x1000 and starts there in real mode.
func realMode(code ...byte) func(*guestmem.Memory) (*boot.CPUState, error) {
	return func(mem *guestmem.Memory) (*boot.CPUState, error) {
		if err := mem.WriteAt(code, 0x1000); err != nil {
			return nil, err
		}
		data := boot.Segment{Limit: 0xffff, Type: 3, Present: 1, S: 1}
		code := data
		code.Type = 11
		return &boot.CPUState{
			CS: code, DS: data, ES: data, FS: data, GS: data, SS: data,
			TR:  boot.Segment{Limit: 0xffff, Type: 11, Present: 1},
			LDT: boot.Segment{Limit: 0xffff, Type: 2, Present: 1},
			IDT: boot.Table{Limit: 0xffff}, GDT: boot.Table{Limit: 0xffff},
			CR0: 0x10, RIP: 0x1000, RSP: 0x8000, RFLAGS: 2,
		}, nil
	}
}

func newMachine(t *testing.T, cfg vmm.Config) *vmm.Machine {
	t.Helper()
	kvmtest.NeedKVM(t)
	if cfg.Memory == 0 {
		cfg.Memory = 2 << 20
	}
	m, err := vmm.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func run(t *testing.T, m *vmm.Machine) vmm.Reason {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	reason, err := m.Run(ctx)
	require.NoError(t, err)
	return reason
}

func TestShutdownCarriesTheCode(t *testing.T) {
	// mov dx, 0x500; mov al, 42; out dx, al
	m := newMachine(t, vmm.Config{Load: realMode(0xba, 0x00, 0x05, 0xb0, 42, 0xee)})
	require.Equal(t, vmm.Shutdown{Code: 42}, run(t, m))
	_, err := m.Run(context.Background())
	require.ErrorIs(t, err, vmm.ErrStarted)
}

func TestReset(t *testing.T) {
	// mov al, 0xfe; out 0x64, al
	m := newMachine(t, vmm.Config{Load: realMode(0xb0, 0xfe, 0xe6, 0x64)})
	require.Equal(t, vmm.Reset{}, run(t, m))
}

func TestResetAfterAPanicIsAPanic(t *testing.T) {
	text := "x\nKernel panic - not syncing: the reason\r\nmore"
	// mov al, 0xfe; out 0x64, al
	code := printThen(text, 0xb0, 0xfe, 0xe6, 0x64)
	var out strings.Builder
	m := newMachine(t, vmm.Config{Load: realMode(code...), Serial: &out})
	require.Equal(t, vmm.Panic{Message: "the reason"}, run(t, m))
	require.Equal(t, text, out.String())
	require.Equal(t, text, string(m.ConsoleTail()))
}

// printThen is a program that prints text on the serial port and goes on with
// the code of end.
func printThen(text string, end ...byte) []byte {
	// mov si, 0x1100; mov cx, len; mov dx, 0x3f8; rep outsb
	code := []byte{0xbe, 0x00, 0x11, 0xb9, byte(len(text)), 0, 0xba, 0xf8, 0x03, 0xf3, 0x6e}
	code = append(code, end...)
	return append(append(code, make([]byte, 0x100-len(code))...), text...)
}

func TestHaltForGoodIsAShutdown(t *testing.T) {
	// cli; hlt; jmp to the hlt
	for _, text := range []string{"[ 1.0] reboot: System halted\r\n", "reboot: Power off not available: System halted instead"} {
		m := newMachine(t, vmm.Config{Load: realMode(printThen(text, 0xfa, 0xf4, 0xeb, 0xfd)...)})
		require.Equal(t, vmm.Shutdown{}, run(t, m))
	}
}

// What the guest prints is only a hint: a vCPU that can be woken, or runs, has
// not halted for good.
func TestHaltIsNotTakenAtItsWord(t *testing.T) {
	const text = "reboot: System halted\n"
	for name, end := range map[string][]byte{
		"interrupts enabled": {0xfb, 0xf4, 0xeb, 0xfd}, // sti; hlt
		"running":            {0xeb, 0xfe},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, vmm.Config{Load: realMode(printThen(text, end...)...)})
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			reason, err := m.Run(ctx)
			require.NoError(t, err)
			require.Equal(t, vmm.Stopped{}, reason)
			require.Equal(t, text, string(m.ConsoleTail()))
		})
	}
}

func TestTripleFault(t *testing.T) {
	// lidt of a limit that holds no vector; then int3
	m := newMachine(t, vmm.Config{Load: realMode(0x0f, 0x01, 0x1e, 0x00, 0x11, 0xcc)})
	reason := run(t, m)
	require.IsType(t, vmm.TripleFault{}, reason, "%v", reason)
}

func TestUnmappedAccessesAreHarmless(t *testing.T) {
	// in al, 0x99 (no device: all ones); mov dx, 0x500; out dx, al
	m := newMachine(t, vmm.Config{Load: realMode(0xe4, 0x99, 0xba, 0x00, 0x05, 0xee)})
	require.Equal(t, vmm.Shutdown{Code: 0xff}, run(t, m))
}

func TestContextStopsASpinningGuest(t *testing.T) {
	m := newMachine(t, vmm.Config{CPUs: 2, Load: realMode(0xeb, 0xfe)}) // jmp .
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	reason, err := m.Run(ctx)
	require.NoError(t, err)
	require.Equal(t, vmm.Stopped{}, reason)
}

func TestCloseStopsARunningGuest(t *testing.T) {
	m := newMachine(t, vmm.Config{Load: realMode(0xeb, 0xfe)})
	var (
		wg     sync.WaitGroup
		reason vmm.Reason
		err    error
	)
	wg.Go(func() { reason, err = m.Run(context.Background()) })
	time.Sleep(50 * time.Millisecond)
	require.NoError(t, m.Close())
	wg.Wait()
	if !errors.Is(err, vmm.ErrClosed) { // Close may have come first
		require.NoError(t, err)
		require.Equal(t, vmm.Stopped{}, reason)
	}
	_, err = m.Run(context.Background())
	require.ErrorIs(t, err, vmm.ErrClosed)
}

// counter is a device of one byte that counts its reads.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) Read(_ uint64, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	p[0] = 0
}

func (c *counter) Write(uint64, []byte) {}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func TestPauseAndResume(t *testing.T) {
	var c counter
	// l: in al, 0x80; jmp l
	m := newMachine(t, vmm.Config{
		Load: realMode(0xe4, 0x80, 0xeb, 0xfc),
		PIO:  []vmm.Window{{Name: "counter", Base: 0x80, Size: 1, Handler: &c}},
	})
	require.Error(t, m.Pause(context.Background()), "it does not run yet")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan vmm.Reason)
	go func() {
		r, _ := m.Run(ctx)
		done <- r
	}()
	require.Eventually(t, func() bool { return c.count() > 0 }, 10*time.Second, time.Millisecond)
	for range 20 {
		require.NoError(t, m.Pause(ctx))
		require.NoError(t, m.Pause(ctx), "pausing twice is pausing")
		before := c.count()
		time.Sleep(5 * time.Millisecond)
		require.Equal(t, before, c.count(), "a paused guest does nothing")
		require.NoError(t, m.Resume())
		require.Eventually(t, func() bool { return c.count() > before }, 10*time.Second, time.Millisecond)
	}
	require.NoError(t, m.Pause(ctx))
	cancel()
	require.Equal(t, vmm.Stopped{}, <-done, "a paused machine ends too")
}

func TestRegistersOfARunningMachine(t *testing.T) {
	var c counter
	// mov bx, 0x1234; l: in al, 0x80; jmp l
	m := newMachine(t, vmm.Config{
		Load: realMode(0xbb, 0x34, 0x12, 0xe4, 0x80, 0xeb, 0xfc),
		PIO:  []vmm.Window{{Name: "counter", Base: 0x80, Size: 1, Handler: &c}},
	})
	_, err := m.Registers(context.Background())
	require.ErrorContains(t, err, "not running")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan vmm.Reason)
	go func() {
		r, _ := m.Run(ctx)
		done <- r
	}()
	look := func() {
		all, err := m.Registers(ctx)
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.EqualValues(t, 0x1234, all[0].RBX&0xffff)
		require.True(t, all[0].Running())
		require.Zero(t, all[0].CS.Base)
	}
	goesOn := func() {
		before := c.count()
		require.Eventually(t, func() bool { return c.count() > before }, 10*time.Second, time.Millisecond)
	}
	goesOn()
	look()
	goesOn()
	require.NoError(t, m.Pause(ctx))
	look()
	before := c.count()
	time.Sleep(5 * time.Millisecond)
	require.Equal(t, before, c.count(), "a paused machine stays paused")
	require.NoError(t, m.Resume())
	goesOn()
	cancel()
	require.Equal(t, vmm.Stopped{}, <-done)
	_, err = m.Registers(context.Background())
	require.ErrorContains(t, err, "ended")
}

func TestTraceSeesEveryExit(t *testing.T) {
	var steps, exits []string
	m := newMachine(t, vmm.Config{
		// mov dx, 0x3fd; in al, dx; mov al, 'A'; mov dx, 0x3f8; out dx, al;
		// in al, 0x99; mov al, 0; mov dx, 0x500; out dx, al
		Load: realMode(0xba, 0xfd, 0x03, 0xec, 0xb0, 'A', 0xba, 0xf8, 0x03, 0xee,
			0xe4, 0x99, 0xb0, 0, 0xba, 0x00, 0x05, 0xee),
		Virtio: []vmm.VirtioDevice{{Name: "ball", Device: virtio.NewBalloon(virtio.BalloonConfig{})}},
		Trace: func(e vmm.Event) {
			if e.Kind == vmm.EventStep {
				steps = append(steps, e.Text)
				return
			}
			require.Equal(t, vmm.EventExit, e.Kind)
			require.Equal(t, kvm.ExitIO, e.Exit.Kind)
			exits = append(exits, fmt.Sprintf("%s %s %v %x", e.Device, e.Register, e.Exit.Write, e.Exit.Data))
		},
	})
	require.Equal(t, vmm.Shutdown{}, run(t, m))
	require.Equal(t, []string{
		"serial LSR false 60", // what the guest got, for the exit was served
		"serial THR true 41",
		"  false ff",
		"exit code true 00",
	}, exits)
	require.Equal(t, map[kvm.ExitKind]uint64{kvm.ExitIO: 4}, m.Stats().Exits)
	story := strings.Join(steps, "\n")
	for _, want := range []string{
		"guest memory: 2048 KiB at 0x0\n", "KVM_CREATE_VM", "1 × KVM_SET_USER_MEMORY_REGION", "KVM_CREATE_IRQCHIP",
		"serial at port 0x3f8", "ball at 0xd0000000, interrupt 5", "1 × KVM_CREATE_VCPU", "vCPU 0 will start at 0x1000",
		"2 × KVM_IRQFD, 5 × KVM_IOEVENTFD",
	} {
		require.Contains(t, story, want)
	}
	require.NotContains(t, story, "persistent memory", "there is none")
}

// What is not watched costs nothing but a look whether it is.
func TestExitsAllocateNothing(t *testing.T) {
	const exits = 20_000
	m := newMachine(t, vmm.Config{
		// mov cx, exits; again: in al, 0x80; loop again; mov dx, 0x500; out dx, al
		Load: realMode(0xb9, exits&0xff, exits>>8, 0xe4, 0x80, 0xe2, 0xfc, 0xba, 0x00, 0x05, 0xee),
		PIO:  []vmm.Window{{Name: "nothing", Base: 0x80, Size: 1, Handler: nothing{}}},
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	require.Equal(t, vmm.Shutdown{}, run(t, m))
	runtime.ReadMemStats(&after)
	require.EqualValues(t, exits+1, m.Stats().Exits[kvm.ExitIO])
	require.Less(t, after.Mallocs-before.Mallocs, uint64(exits/20))
}

type nothing struct{}

func (nothing) Read(_ uint64, p []byte) { clear(p) }
func (nothing) Write(uint64, []byte)    {}

func TestConfigReportsEverything(t *testing.T) {
	_, err := vmm.New(vmm.Config{CPUs: 300, Memory: 4097, Virtio: make([]vmm.VirtioDevice, 1)})
	var e *vmm.Error
	require.ErrorAs(t, err, &e)
	for _, want := range []string{"CPUs is 300", "Memory is 4097", "nothing to run", "virtio device 0"} {
		require.ErrorContains(t, err, want)
	}
}

// A machine that cannot be built leaves no descriptor behind.
func TestFailedNewLeavesNothing(t *testing.T) {
	kvmtest.NeedKVM(t)
	before := fds(t)
	for range 20 {
		_, err := vmm.New(vmm.Config{Memory: 2 << 20, Load: func(*guestmem.Memory) (*boot.CPUState, error) {
			return nil, io.ErrUnexpectedEOF
		}})
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	require.LessOrEqual(t, fds(t), before+2)
}

func fds(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
