package rig

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring0Speed runs a counted loop at CPL 0 in a fresh VM and returns
// instructions per second. Placeholder until package kvm has MeasureRing0.
func ring0Speed() (float64, error) {
	const n = 200_000
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer kvm.Close()
	vm, err := unix.IoctlRetInt(int(kvm.Fd()), _KVM_CREATE_VM)
	if err != nil {
		return 0, err
	}
	defer unix.Close(vm)
	mem, err := unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(mem)
	var region [32]byte
	binary.LittleEndian.PutUint64(region[16:], uint64(len(mem)))
	binary.LittleEndian.PutUint64(region[24:], uint64(uintptr(unsafe.Pointer(&mem[0]))))
	if err := ioctlBytes(vm, 0x4020ae46, region[:]); err != nil {
		return 0, err
	}
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(vm), 0xae47, 0xfffbd000)
	vcpu, err := unix.IoctlRetInt(vm, _KVM_CREATE_VCPU)
	if err != nil {
		return 0, err
	}
	defer unix.Close(vcpu)
	sregs := make([]byte, 312)
	if err := ioctlBytes(vcpu, 0x8138ae83, sregs); err != nil {
		return 0, err
	}
	clear(sregs[:8])    // cs.base
	clear(sregs[12:14]) // cs.selector
	if err := ioctlBytes(vcpu, 0x4138ae84, sregs); err != nil {
		return 0, err
	}
	copy(mem[0x1000:], []byte{0x66, 0xb9, byte(n & 0xff), byte(n >> 8 & 0xff), byte(n >> 16), 0, 0x66, 0x49, 0x75, 0xfc, 0xe6, 0x10, 0xf4})
	regs := make([]byte, 144)
	binary.LittleEndian.PutUint64(regs[128:], 0x1000)
	binary.LittleEndian.PutUint64(regs[136:], 2)
	if err := ioctlBytes(vcpu, 0x4090ae82, regs); err != nil {
		return 0, err
	}
	t := time.Now()
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(vcpu), 0xae80, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return 0, fmt.Errorf("KVM_RUN: %w", e)
		}
		break
	}
	d := time.Since(t)
	if err := ioctlBytes(vcpu, 0x8090ae81, regs); err != nil {
		return 0, err
	}
	if rcx := binary.LittleEndian.Uint64(regs[16:]); rcx != 0 {
		return 0, fmt.Errorf("the loop ended with %d left", rcx)
	}
	return 2 * n / d.Seconds(), nil
}

func ioctlBytes(fd int, req uintptr, b []byte) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(&b[0])))
	runtime.KeepAlive(b)
	if e != 0 {
		return e
	}
	return nil
}
