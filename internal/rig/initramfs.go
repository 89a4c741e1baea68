package rig

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// initramfs returns a memfd with a cpio archive whose /init is this very
// executable. QEMU reads it through /proc, so nothing is left on the disk.
func initramfs() (*os.File, error) {
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, &Error{Op: "read own executable", Err: err}
	}
	if err := checkStatic(exe); err != nil {
		return nil, &Error{Op: "make the initramfs", Err: err}
	}
	var b bytes.Buffer
	writeCPIO(&b, stripELF(exe))
	fd, err := unix.MemfdCreate("kvmrig-initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, &Error{Op: "memfd for the initramfs", Err: err}
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	if _, err := f.Write(b.Bytes()); err != nil {
		return nil, &Error{Op: "write the initramfs", Err: errors.Join(err, f.Close())}
	}
	return f, nil
}

// checkStatic refuses an executable that L1 could not start: it has no dynamic
// linker, nor any library.
func checkStatic(exe []byte) error {
	f, err := elf.NewFile(bytes.NewReader(exe))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("kvmrig is linked dynamically: build it with CGO_ENABLED=0, as make build does")
		}
	}
	return nil
}

// writeCPIO writes a newc archive: /init, and the console that the kernel opens
// for it.
func writeCPIO(b *bytes.Buffer, init []byte) {
	entry := func(ino int, name string, mode, rmajor, rminor uint32, data []byte) {
		fmt.Fprintf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			ino, mode, 0, 0, 1, 0, len(data), 0, 0, rmajor, rminor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad(b)
		b.Write(data)
		pad(b)
	}
	entry(1, "dev", unix.S_IFDIR|0o755, 0, 0, nil)
	entry(2, "dev/console", unix.S_IFCHR|0o600, 5, 1, nil)
	entry(3, "init", unix.S_IFREG|0o755, 0, 0, init)
	entry(0, "TRAILER!!!", 0, 0, 0, nil)
}

// pad fills up to a multiple of four bytes.
func pad(b *bytes.Buffer) { b.Write(make([]byte, -b.Len()&3)) }

// stripELF returns the part of an executable that is loaded: symbols and debug
// information follow it, and would only be copied into L1's memory. What is not
// a 64-bit little-endian ELF file comes back as it is.
func stripELF(exe []byte) []byte {
	const headerSize, programHeaderSize = 64, 56
	le := binary.LittleEndian
	if len(exe) < headerSize || !bytes.HasPrefix(exe, []byte("\x7fELF\x02\x01")) {
		return exe
	}
	phoff, phentsize, phnum := le.Uint64(exe[32:]), le.Uint16(exe[54:]), le.Uint16(exe[56:])
	if phentsize != programHeaderSize {
		return exe
	}
	end := phoff + uint64(phnum)*programHeaderSize
	if phoff > uint64(len(exe)) || end > uint64(len(exe)) {
		return exe
	}
	for i := range uint64(phnum) {
		ph := exe[phoff+i*programHeaderSize:]
		offset, size := le.Uint64(ph[8:]), le.Uint64(ph[32:])
		if offset > uint64(len(exe)) || size > uint64(len(exe))-offset {
			return exe
		}
		end = max(end, offset+size)
	}
	out := bytes.Clone(exe[:end])
	clear(out[40:48]) // e_shoff
	clear(out[58:64]) // e_shentsize, e_shnum, e_shstrndx
	return out
}
