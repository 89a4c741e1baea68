package kvmtest_test

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

// skipper is a test that remembers being skipped.
type skipper struct {
	testing.TB
	skipped bool
}

func (s *skipper) Helper() {}

func (s *skipper) Skip(...any) {
	s.skipped = true
	runtime.Goexit()
}

func TestNeedKVM_Short(t *testing.T) {
	short := flag.Lookup("test.short").Value
	before := short.String()
	require.NoError(t, short.Set("true"))
	defer func() { require.NoError(t, short.Set(before)) }()
	s := &skipper{TB: t}
	var wg sync.WaitGroup
	wg.Go(func() {
		kvmtest.NeedKVM(s)
		t.Error("not skipped")
	})
	wg.Wait()
	require.True(t, s.skipped)
}

// Each test that got its KVM leaves one line in the log.
func TestNeedKVM_Log(t *testing.T) {
	kvmtest.NeedKVM(t)
	path := filepath.Join(t.TempDir(), "log")
	t.Setenv(kvmtest.LogEnv, path)
	for _, name := range []string{"one", "two"} {
		t.Run(name, func(t *testing.T) { kvmtest.NeedKVM(t) })
	}
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, []string{"TestNeedKVM_Log/one", "TestNeedKVM_Log/two"}, strings.Fields(string(b)))
}

func TestGuest_Modes(t *testing.T) {
	sys := kvmtest.NeedKVM(t)
	for _, c := range []kvmtest.Config{
		{Code: []byte{0xb0, 0x2a, 0xe6, 0x10, 0xf4}},
		{Mode: kvmtest.Long, Code: []byte{0xb0, 0x2a, 0xe6, 0x10, 0xf4}},
		{Mode: kvmtest.Long, CPUs: 3, Heap: true, Code: []byte{0x50, 0x58, 0xb0, 0x2a, 0xe6, 0x10, 0xf4}},
	} {
		g := kvmtest.NewGuest(t, sys, c)
		for _, v := range g.VCPUs {
			e := g.RunVCPU(v)
			require.Equal(t, kvm.ExitIO, e.Kind)
			require.Equal(t, []byte{42}, e.Data)
			require.Equal(t, kvm.ExitHLT, g.RunVCPU(v).Kind)
		}
	}
}

// An exception and an interrupt instruction reach their handlers and return.
func TestGuest_Gates(t *testing.T) {
	const handler = 0x20
	code := make([]byte, handler, 64)
	copy(code, []byte{
		0xcd, 0x80, // int 0x80
		0xe6, 0x11, // out 0x11, al
		0xf4,
	})
	code = append(code, 0xe6, 0x10, 0x48, 0xcf) // out 0x10, al; iretq
	g := kvmtest.NewGuest(t, kvmtest.NeedKVM(t), kvmtest.Config{Mode: kvmtest.Long, Code: code})
	g.SetGate(0x80, kvmtest.CodeLong+guestmem.GPA(handler))
	require.EqualValues(t, 0x10, g.RunTo(kvm.ExitIO).Addr)
	require.EqualValues(t, 0x11, g.RunTo(kvm.ExitIO).Addr)
	g.RunTo(kvm.ExitHLT)
}
