// Package kvmtest helps tests that need a virtual machine: [NeedKVM] finds a KVM
// that is fit for use, and [NewGuest] boots a few bytes of machine code, in real
// mode or in 64-bit mode, in about a millisecond.
//
//	func TestPort(t *testing.T) {
//		g := kvmtest.NewGuest(t, kvmtest.NeedKVM(t), kvmtest.Config{
//			Code: []byte{
//				0xb0, 0x2a, // mov al, 42
//				0xe6, 0x10, // out 0x10, al
//				0xf4, // hlt
//			},
//		})
//		exit := g.RunTo(kvm.ExitIO)
//		require.Equal(t, []byte{42}, exit.Data)
//	}
//
// A test that needs KVM fails without one, and is skipped under -short only.
// Where KVM is missing, or interprets guest kernels, such tests run with
//
//	go test -exec bin/kvmrig ./kvm/...
//
// If the environment names a file in SANDPIT_VMTEST_LOG, each test that got its
// KVM appends its name to it, one line each: whoever runs the suite can count
// how many VM tests ran.
//
// The package is exported like net/http/httptest: for tests of code above
// package kvm, in this module and elsewhere. A Guest belongs to its test's
// goroutine.
package kvmtest
