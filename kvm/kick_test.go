package kvm_test

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

// runToExit runs a vCPU on its own thread until it exits with kind.
func runToExit(v *kvm.VCPU, kind kvm.ExitKind) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		e, err := v.Run()
		switch {
		case err != nil:
			return err
		case e.Kind == kind:
			return nil
		case e.Kind != kvm.ExitInterrupted:
			return fmt.Errorf("unexpected exit: %v", e)
		}
	}
}

// Thousands of kicks, each of which must interrupt Run, against a guest that
// never exits by itself, and against one that is mostly outside KVM_RUN.
func TestKick_NoneLost(t *testing.T) {
	for name, c := range map[string]struct {
		code  []byte
		kicks int
	}{
		"spinning": {[]byte{0xeb, 0xfe}, 10_000},                        // jmp .
		"exiting":  {[]byte{0xe6, 0x10, 0xe4, 0x10, 0xeb, 0xfa}, 2_000}, // out 0x10, al; in al, 0x10; jmp
	} {
		t.Run(name, func(t *testing.T) {
			g := guest(t, kvmtest.Config{Code: c.code})
			kickALot(t, g.VCPU, g.VCPU.Kick, c.kicks, 10*time.Second, func(n int) {
				t.Fatalf("kick %d was lost", n)
			})
		})
	}
}

// kickALot kicks a vCPU that runs on a thread of its own, waiting for the
// interruption each time, and calls lost if it does not come. It returns the
// number of exits.
func kickALot(t testing.TB, v *kvm.VCPU, kick func(), n int, patience time.Duration, lost func(int)) (exits int64) {
	var asked, seen, count atomic.Int64
	var stop atomic.Bool
	answered := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		v.Bind()
		defer v.Unbind()
		for !stop.Load() {
			e, err := v.Run()
			if err != nil {
				done <- err
				return
			}
			count.Add(1)
			if e.Kind != kvm.ExitInterrupted {
				continue
			}
			seen.Store(asked.Load())
			select {
			case answered <- struct{}{}:
			default:
			}
		}
		done <- nil
	}()
	defer func() {
		stop.Store(true)
		v.Kick()
		require.NoError(t, <-done)
		exits = count.Load()
	}()
	timer := time.NewTimer(patience)
	for i := 1; i <= n; i++ {
		asked.Store(int64(i))
		kick()
		timer.Reset(patience)
		for seen.Load() != int64(i) {
			select {
			case <-answered:
				continue
			case <-timer.C:
				lost(i)
			}
			break
		}
	}
	return
}

// Several goroutines kick at once, at any time, while the vCPU is closed at last.
func TestKick_FromEverywhere(t *testing.T) {
	g := guest(t, kvmtest.Config{Code: []byte{0xeb, 0xfe}})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				g.VCPU.Kick()
				time.Sleep(50 * time.Microsecond)
			}
		})
	}
	for range 500 {
		e, err := g.VCPU.Run()
		require.NoError(t, err)
		require.Equal(t, kvm.ExitInterrupted, e.Kind)
	}
	require.NoError(t, g.VCPU.Close())
	time.Sleep(time.Millisecond)
	stop.Store(true)
	wg.Wait()
	g.VCPU.Kick()
	require.NoError(t, g.VCPU.Close())
	_, err := g.VCPU.Run()
	require.ErrorIs(t, err, kvm.ErrClosed)
}

// A kick before Run stops it before the guest's first instruction.
func TestKick_BeforeRun(t *testing.T) {
	g := guest(t, kvmtest.Config{Code: []byte{0xe6, 0x10, 0xf4}})
	g.VCPU.Kick()
	g.VCPU.Kick()
	e, err := g.VCPU.Run()
	require.NoError(t, err)
	require.Equal(t, kvm.ExitInterrupted, e.Kind)
	r, err := g.VCPU.Regs()
	require.NoError(t, err)
	require.EqualValues(t, kvmtest.CodeReal, r.RIP)
	g.RunTo(kvm.ExitIO)
}

// A kick lets a read complete and goes no further: the state can be saved then.
func TestKick_CompletesRead(t *testing.T) {
	g := guest(t, kvmtest.Config{Code: []byte{
		0xe4, 0x10, // in al, 0x10
		0xe6, 0x11, // out 0x11, al
	}})
	e := g.RunTo(kvm.ExitIO)
	e.Data[0] = 0x5a
	g.VCPU.Kick()
	e, err := g.VCPU.Run()
	require.NoError(t, err)
	require.Equal(t, kvm.ExitInterrupted, e.Kind)
	r, err := g.VCPU.Regs()
	require.NoError(t, err)
	require.EqualValues(t, 0x5a, r.RAX)
	require.EqualValues(t, kvmtest.CodeReal+2, r.RIP)
	require.Equal(t, []byte{0x5a}, g.RunTo(kvm.ExitIO).Data)
}

// A parent may leave the signal blocked, and an embedding program may have
// ignored it before: kicks work all the same.
func TestKick_SignalBlockedOrIgnored(t *testing.T) {
	signal.Ignore(kvm.KickSignal)
	defer signal.Reset(kvm.KickSignal)
	g := guest(t, kvmtest.Config{Code: []byte{0xeb, 0xfe}})
	runtime.LockOSThread() // and never unlocked: the thread ends with its mask
	var set unix.Sigset_t
	set.Val[0] = 1 << (uint(kvm.KickSignal) - 1)
	require.NoError(t, unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil))
	time.AfterFunc(20*time.Millisecond, g.VCPU.Kick)
	e, err := g.VCPU.Run()
	require.NoError(t, err)
	require.Equal(t, kvm.ExitInterrupted, e.Kind)
}

// Why Kick does more than signal: what lands outside KVM_RUN interrupts nothing.
// The guest here exits all the time, as a booting one does.
func BenchmarkSignalAlone(b *testing.B) {
	g := guest(b, kvmtest.Config{Code: []byte{0xe6, 0x10, 0xe4, 0x10, 0xeb, 0xfa}})
	lost := 0
	kickALot(b, g.VCPU, func() {
		tid := g.VCPU.Runner()
		for tid == 0 {
			tid = g.VCPU.Runner()
		}
		_ = unix.Tgkill(os.Getpid(), tid, kvm.KickSignal)
	}, b.N, 50*time.Millisecond, func(int) { lost++ })
	b.ReportMetric(float64(lost)/float64(b.N), "lost/signal")
}

func BenchmarkKick(b *testing.B) {
	g := guest(b, kvmtest.Config{Code: []byte{0xeb, 0xfe}})
	kickALot(b, g.VCPU, g.VCPU.Kick, b.N, 10*time.Second, func(n int) { b.Fatalf("kick %d was lost", n) })
}
