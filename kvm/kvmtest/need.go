package kvmtest

import (
	"os"
	"testing"

	"github.com/sandpit-vm/sandpit/kvm"
)

// LogEnv names the environment variable with the file that counts VM tests.
const LogEnv = "SANDPIT_VMTEST_LOG"

const remedy = "run it where KVM works, or in the emulated machine: go test -exec bin/kvmrig"

// NeedKVM returns an open KVM that runs guest kernel code at a usable speed, and
// closes it when the test ends. Without one, the test fails; under -short, it
// is skipped.
func NeedKVM(t testing.TB) *kvm.System {
	t.Helper()
	if testing.Short() {
		t.Skip("needs KVM, which -short leaves out")
	}
	sys, err := kvm.Open()
	if err != nil {
		t.Fatalf("needs KVM: %v; %s", err, remedy)
	}
	t.Cleanup(func() {
		if err := sys.Close(); err != nil {
			t.Errorf("closing KVM: %v", err)
		}
	})
	var speed float64
	for range 10 { // a crowded machine may make a good KVM look slow
		if speed, err = sys.MeasureRing0(); err != nil {
			t.Fatalf("needs KVM, and measuring its speed failed: %v; %s", err, remedy)
		}
		if speed >= kvm.UsableRing0 {
			break
		}
	}
	if speed < kvm.UsableRing0 {
		t.Fatalf("needs KVM, and the one here interprets guest kernels (%.1f million instructions/s, at least %.0f needed); %s",
			speed/1e6, kvm.UsableRing0/1e6, remedy)
	}
	logTest(t)
	return sys
}

// logTest appends the test's name to the log. One small write to a file opened
// for appending does not mix with another process's.
func logTest(t testing.TB) {
	t.Helper()
	path := os.Getenv(LogEnv)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatalf("%s: %v", LogEnv, err)
	}
	_, err = f.WriteString(t.Name() + "\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatalf("%s: %v", LogEnv, err)
	}
}
