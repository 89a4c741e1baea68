package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// benchInitName is the bench's init in the initramfs: it writes to the exit
// port and is done, so that a machine's time up to its init can be measured
// with every monitor that has, or refuses, a device there.
const benchInitName = "benchinit"

// benchInitCode is the whole program: iopl(3), which writing to a port needs,
// then the port, then an instruction that faults for monitors without it.
var benchInitCode = []byte{
	0xb8, 172, 0, 0, 0, // mov eax, 172 (iopl)
	0xbf, 3, 0, 0, 0, // mov edi, 3
	0x0f, 0x05, // syscall
	0x66, 0xba, 0x00, 0x05, // mov dx, 0x500
	0x31, 0xc0, // xor eax, eax
	0xee,       // out dx, al
	0x0f, 0x0b, // ud2
}

// benchInitELF is the program as a static executable: an ELF header, one
// program header, the code (System V ABI, ELF-64 object file format).
func benchInitELF() []byte {
	const base, headers = 0x400000, 64 + 56
	var b bytes.Buffer
	le := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	le(uint16(2))              // ET_EXEC
	le(uint16(62))             // EM_X86_64
	le(uint32(1))              // version
	le(uint64(base + headers)) // entry
	le(uint64(64))             // program headers
	le(uint64(0))              // section headers
	le(uint32(0))              // flags
	le([]uint16{64, 56, 1, 0, 0, 0})
	le(uint32(1)) // PT_LOAD
	le(uint32(5)) // readable, executable
	size := uint64(headers + len(benchInitCode))
	le([]uint64{0, base, base, size, size, 0x1000})
	b.Write(benchInitCode)
	return b.Bytes()
}

// benchInitArchive is the program in a newc archive.
func benchInitArchive() []byte { return newc(benchInitName, benchInitELF()) }

// newc is a program in an archive for an initramfs.
func newc(name string, program []byte) []byte {
	var b bytes.Buffer
	file := func(name string, mode int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad(&b)
		b.Write(data)
		pad(&b)
	}
	file(name, 0o100755, program)
	file("TRAILER!!!", 0, nil)
	return b.Bytes()
}

// pad fills up to a multiple of four bytes.
func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
