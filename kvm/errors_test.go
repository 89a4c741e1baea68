package kvm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestError(t *testing.T) {
	for _, c := range []struct {
		op    string
		errno unix.Errno
		want  string
	}{
		{opOpen, unix.EACCES, "usermod -aG kvm"},
		{opOpen, unix.ENOENT, "nested virtualization"},
		{opOpen, unix.ENODEV, "modprobe"},
		{opOpen, unix.EBUSY, "VirtualBox"},
		{"KVM_CREATE_VM", unix.EBUSY, "VirtualBox"},
		{"KVM_CREATE_VM", unix.EMFILE, "ulimit"},
		{"KVM_CREATE_VCPU", unix.EINVAL, "more vCPUs"},
	} {
		err := error(&Error{c.op, c.errno})
		require.ErrorIs(t, err, c.errno)
		require.ErrorContains(t, err, c.op)
		require.ErrorContains(t, err, c.errno.Error())
		require.ErrorContains(t, err, c.want)
	}
	require.Equal(t, "KVM_GET_REGS: bad address", (&Error{"KVM_GET_REGS", unix.EFAULT}).Error())
}

func TestErrUnavailable(t *testing.T) {
	err := unavailable("KVM_ENABLE_CAP", CapSplitIRQChip)
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "KVM_CAP_SPLIT_IRQCHIP, Linux 4.4 or later")
	err = unavailable("KVM_ENABLE_CAP", 9999)
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "9999")
}

// A file that is not /dev/kvm is refused, and closed.
func TestNewSystem_NotKVM(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "kvm"))
	require.NoError(t, err)
	_, err = NewSystem(f)
	require.ErrorIs(t, err, unix.ENOTTY)
	require.ErrorIs(t, f.Close(), os.ErrClosed)
}

func TestRequests_OnWrongDescriptor(t *testing.T) {
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer f.Close()
	v := &VCPU{fd: int(f.Fd())}
	_, err = v.Regs()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "KVM_GET_REGS", e.Op)
	_, err = v.Run()
	require.True(t, errors.Is(err, ErrClosed), "a vCPU without its page does not run")
}
