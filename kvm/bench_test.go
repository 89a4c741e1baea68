package kvm_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

// portLoop is a guest that does nothing but exit: out 0x10, al; jmp.
func portLoop(t testing.TB) *kvmtest.Guest {
	return guest(t, kvmtest.Config{Code: []byte{0xe6, 0x10, 0xeb, 0xfc}})
}

// mmioLoop: mov [rbx], al; jmp.
func mmioLoop(t testing.TB) *kvmtest.Guest {
	return guest(t, kvmtest.Config{
		Mode: kvmtest.Long, Code: []byte{0x88, 0x03, 0xeb, 0xfc}, Regs: kvm.Regs{RBX: 0xd0000000},
	})
}

func TestRun_DoesNotAllocate(t *testing.T) {
	for _, g := range []*kvmtest.Guest{portLoop(t), mmioLoop(t)} {
		sum := 0
		allocs := testing.AllocsPerRun(200, func() {
			e, err := g.VCPU.Run()
			if err != nil {
				t.Fatal(err)
			}
			for d := range e.Elements() {
				sum += len(d)
			}
		})
		require.Zero(t, allocs)
		require.NotZero(t, sum)
	}
}

func benchmarkRun(b *testing.B, g *kvmtest.Guest, kind kvm.ExitKind) {
	g.VCPU.Bind()
	defer g.VCPU.Unbind()
	b.ReportAllocs()
	for b.Loop() {
		e, err := g.VCPU.Run()
		if err != nil {
			b.Fatal(err)
		}
		if e.Kind != kind && e.Kind != kvm.ExitInterrupted {
			b.Fatal(e)
		}
	}
}

func BenchmarkRun_PIO(b *testing.B)  { benchmarkRun(b, portLoop(b), kvm.ExitIO) }
func BenchmarkRun_MMIO(b *testing.B) { benchmarkRun(b, mmioLoop(b), kvm.ExitMMIO) }

// BenchmarkCreate is a VM with one vCPU and nothing else, made and closed.
func BenchmarkCreate(b *testing.B) {
	sys := kvmtest.NeedKVM(b)
	for b.Loop() {
		vm, err := sys.CreateVM()
		if err != nil {
			b.Fatal(err)
		}
		v, err := vm.CreateVCPU(0)
		if err != nil {
			b.Fatal(err)
		}
		_ = v.Close()
		_ = vm.Close()
	}
}
