// Command bootlinux boots a Linux kernel with package vmm, shows its console,
// and ends when its init does. The kernel may be a distribution's: a bzImage as
// it lies in /boot.
//
//	bootlinux -cpus 2 /boot/vmlinuz-6.1.0-42-cloud-amd64
//
// The init is a program of some fifty bytes, assembled below, in an initramfs
// made of strings: it says hello and writes to the exit port.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/vmm"
)

func main() {
	cpus := flag.Int("cpus", 1, "number of vCPUs")
	memory := flag.Uint64("memory", 512, "memory in MiB")
	verbose := flag.Bool("v", false, "show the kernel's messages too")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: bootlinux [flags] KERNEL")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	reason, err := boot(ctx, flag.Arg(0), *cpus, *memory<<20, *verbose, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bootlinux:", err)
		os.Exit(1)
	}
	fmt.Println(reason)
}

// boot boots the kernel and returns why it ended.
func boot(ctx context.Context, path string, cpus int, memory uint64, verbose bool, console io.Writer) (vmm.Reason, error) {
	kernel, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	initramfs, err := memoryFile(archive("init", program("hello from init\n")))
	if err != nil {
		return nil, err
	}
	defer initramfs.Close()
	// A distribution's kernel looks for a PC's devices; pci=off saves it
	// thousands of probes of a bus that is not there.
	cmdline := "console=ttyS0 panic=-1 reboot=k pci=off i8042.nokbd"
	if !verbose {
		cmdline += " quiet loglevel=1"
	}
	m, err := vmm.New(vmm.Config{
		CPUs:      cpus,
		Memory:    memory,
		Kernel:    kernel,
		Initramfs: initramfs,
		Cmdline:   cmdline,
		Serial:    console,
		PIT:       true, // with which it calibrates its clocks
	})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.Run(ctx)
}

// program assembles an executable that writes text to its standard output,
// waits until the serial port has sent it (tcdrain(3): with several CPUs another
// may still be at it), allows itself the ports, and writes 0 to the exit device.
func program(text string) []byte {
	const base, headers = 0x400000, 64 + 56
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 46, 0, 0, 0, // lea rsi, [rip+46]: the text, behind the code
		0xba, byte(len(text)), 0, 0, 0, // mov edx, len
		0x0f, 0x05, // syscall
		0xb8, 16, 0, 0, 0, // mov eax, 16 (ioctl), of the same descriptor
		0xbe, 0x09, 0x54, 0, 0, // mov esi, TCSBRK
		0xba, 1, 0, 0, 0, // mov edx, 1: no break, only the wait
		0x0f, 0x05, // syscall
		0xb8, 172, 0, 0, 0, // mov eax, 172 (iopl)
		0xbf, 3, 0, 0, 0, // mov edi, 3
		0x0f, 0x05, // syscall
		0x66, 0xba, 0x00, 0x05, // mov dx, 0x500
		0x31, 0xc0, // xor eax, eax
		0xee,       // out dx, al
		0xeb, 0xfe, // jmp .
		0x90, // pad
	}
	code = append(code, text...)
	var b bytes.Buffer
	le := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	le([]uint16{2, 62})                             // an executable, for x86-64
	le(uint32(1))                                   // version
	le([]uint64{base + headers, 64, 0})             // entry, program headers, no sections
	le(uint32(0))                                   // flags
	le([]uint16{64, 56, 1, 0, 0, 0})                // sizes and counts
	le([]uint32{1, 5})                              // PT_LOAD, readable and executable
	size := uint64(headers + len(code))             //
	le([]uint64{0, base, base, size, size, 0x1000}) // offset, addresses, sizes, alignment
	b.Write(code)
	return b.Bytes()
}

// archive is a cpio archive of one executable and the console that the kernel
// opens for it (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
func archive(name string, data []byte) []byte {
	var b bytes.Buffer
	entry := func(name string, mode, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	entry("dev", unix.S_IFDIR|0o755, 0, 0, nil)
	entry("dev/console", unix.S_IFCHR|0o600, 5, 1, nil)
	entry(name, unix.S_IFREG|0o755, 0, 0, data)
	entry("TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}

// memoryFile is a file that exists in memory only.
func memoryFile(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
