package kvm

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	devicePath = "/dev/kvm"
	opOpen     = "open " + devicePath
)

// System is /dev/kvm: what this host can do, and the maker of VMs.
type System struct {
	fd      int
	file    *os.File
	runSize int // bytes to map of each vCPU

	close func() error
}

// Open opens /dev/kvm.
func Open() (*System, error) {
	fd, err := unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	for err == unix.EINTR {
		fd, err = unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &Error{opOpen, err}
	}
	return NewSystem(os.NewFile(uintptr(fd), devicePath))
}

// NewSystem makes a System of an open /dev/kvm, for a process that inherited
// the descriptor and cannot open paths. It owns f from now on, and closes it if
// it fails.
func NewSystem(f *os.File) (*System, error) {
	s := &System{fd: int(f.Fd()), file: f}
	s.close = sync.OnceValue(func() error {
		s.fd = -1
		return f.Close()
	})
	if err := s.probe(); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// probe checks what nothing here works without.
func (s *System) probe() error {
	v, err := s.APIVersion()
	if err != nil {
		return err
	}
	if v != _KVM_API_VERSION {
		return &Error{"KVM_GET_API_VERSION", fmt.Errorf("%w: %d, not %d", ErrAPIVersion, v, _KVM_API_VERSION)}
	}
	for _, c := range []Cap{CapUserMemory, CapImmediateExit} {
		if err := s.Require(c); err != nil {
			return err
		}
	}
	s.runSize, err = ioctlVal(s.fd, "KVM_GET_VCPU_MMAP_SIZE", _KVM_GET_VCPU_MMAP_SIZE, 0)
	if err != nil {
		return err
	}
	if s.runSize < int(runSize) {
		return &Error{"KVM_GET_VCPU_MMAP_SIZE", fmt.Errorf("%w: %d bytes", ErrMalformedExit, s.runSize)}
	}
	return nil
}

// Close closes the descriptor. VMs made before live on. A second Close does nothing.
func (s *System) Close() error { return s.close() }

// File is the open /dev/kvm, to hand to a child process. It stays owned by s.
func (s *System) File() *os.File { return s.file }

// APIVersion is KVM's API version; 12 since Linux 2.6.22.
func (s *System) APIVersion() (int, error) {
	return ioctlVal(s.fd, "KVM_GET_API_VERSION", _KVM_GET_API_VERSION, 0)
}

// CheckExtension is what this host says about c: 0 if it lacks it, else 1 or a
// number whose meaning depends on c.
func (s *System) CheckExtension(c Cap) (int, error) {
	return ioctlVal(s.fd, "KVM_CHECK_EXTENSION", _KVM_CHECK_EXTENSION, uintptr(c))
}

// Require fails with ErrUnavailable, naming c, if this host lacks it.
func (s *System) Require(c Cap) error {
	n, err := s.CheckExtension(c)
	if err == nil && n == 0 {
		err = unavailable("KVM_CHECK_EXTENSION", c)
	}
	return err
}

// MaxVCPUs is how many vCPUs one VM can have.
func (s *System) MaxVCPUs() (int, error) {
	n, err := s.CheckExtension(CapMaxVCPUs)
	if err == nil && n == 0 {
		n, err = s.CheckExtension(CapNrVCPUs)
	}
	if err == nil && n == 0 {
		n = 4 // says the API's documentation, for kernels without either
	}
	return n, err
}

// SupportedCPUID is what CPUID can answer in a guest on this host: the
// processor's features that KVM supports, and KVM's own leaves. It is the raw
// material of [GuestCPUID].
//
// KVM itself leaves the TSC-deadline timer out (leaf 1, ECX bit 24), since it
// depends on the in-kernel local APIC; it is added here if the host has
// [CapTSCDeadlineTimer], because every VM of this package has that APIC.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	buf := new(kvmCPUID2Buf)
	buf.head.nent = maxCPUIDEntries
	if _, err := ioctlPtr(s.fd, "KVM_GET_SUPPORTED_CPUID", _KVM_GET_SUPPORTED_CPUID, buf); err != nil {
		return nil, err
	}
	entries := buf.entries[:min(buf.head.nent, maxCPUIDEntries)]
	deadline, err := s.CheckExtension(CapTSCDeadlineTimer)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		if e := &entries[i]; e.Function == 1 && deadline != 0 {
			e.ECX |= leaf1TSCDeadline
		}
	}
	return entries, nil
}

// MSRIndexList is the MSRs that a vCPU's state consists of, for a snapshot.
func (s *System) MSRIndexList() ([]uint32, error) {
	buf := new(kvmMSRListBuf)
	buf.head.nmsrs = maxMSRList
	if _, err := ioctlPtr(s.fd, "KVM_GET_MSR_INDEX_LIST", _KVM_GET_MSR_INDEX_LIST, buf); err != nil {
		return nil, err
	}
	return buf.indices[:min(buf.head.nmsrs, maxMSRList)], nil
}

// CreateVM makes a VM without memory, devices or vCPUs.
func (s *System) CreateVM() (*VM, error) {
	fd, err := ioctlVal(s.fd, "KVM_CREATE_VM", _KVM_CREATE_VM, 0)
	if err != nil {
		return nil, err
	}
	return newVM(fd, s.runSize), nil
}
