// Command owndevice adds a device of one's own to a machine: the text screen of
// a PC, 80 by 25 characters at 0xb8000. The guest, a few bytes of real-mode
// code, writes a text to it, colours and all; the host shows what is on it.
package main

import (
	"context"
	"fmt"
	"log"
	"strings"
	"sync"

	"github.com/sandpit-vm/sandpit/vmm"
)

const (
	screenBase    = 0xb8000 // of the colour text modes
	columns, rows = 80, 25
	screenSize    = 2 * columns * rows // a character and its colours each
)

// screen is a devices.Handler. Memory that nobody backs is an exit for each
// access, and the bus brings it here: no larger than 8 bytes, inside the window.
type screen struct {
	mu    sync.Mutex // vCPUs come at any time, and so does String
	cells [screenSize]byte
}

// Read gives the guest what is on the screen.
func (s *screen) Read(off uint64, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(p, s.cells[off:])
}

// Write puts characters and colours on the screen.
func (s *screen) Write(off uint64, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(s.cells[off:], p)
}

// String is the screen without colours. What the guest put there may be
// anything: only printable ASCII leaves.
func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for row := range rows {
		line := make([]byte, columns)
		for col := range line {
			line[col] = ' '
			if c := s.cells[2*(row*columns+col)]; c > ' ' && c < 0x7f {
				line[col] = c
			}
		}
		b.WriteString(strings.TrimRight(string(line), " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

const text = "a device of one's own"

// program writes text to the screen, white on blue, and counts on the second
// line how many characters it can read back.
var program = append([]byte{
	0xb8, 0x00, 0xb8, // mov ax, 0xb800
	0x8e, 0xc0, // mov es, ax: es:0 is the screen
	0x31, 0xff, // xor di, di
	0xbe, 0x34, 0x10, // mov si, 0x1034: the text, behind the program
	0xb9, byte(len(text)), 0, // mov cx, len(text)
	0xb4, 0x1f, // mov ah, 0x1f: white on blue
	// write: at 0x100f
	0xac,             // lodsb
	0x26, 0x89, 0x05, // mov es:[di], ax
	0x83, 0xc7, 2, // add di, 2
	0xe2, 0xf7, // loop write
	0x31, 0xff, // xor di, di
	0x31, 0xdb, // xor bx, bx
	0xb9, 80, 0, // mov cx, 80
	// read: at 0x101f
	0x26, 0x8a, 0x05, // mov al, es:[di]
	0x3c, 1, // cmp al, 1
	0x83, 0xdb, 0xff, // sbb bx, -1: one more, unless al is 0
	0x83, 0xc7, 2, // add di, 2
	0xe2, 0xf3, // loop read
	// An exit code is a byte.
	0x88, 0xd8, // mov al, bl
	0xba, 0x00, 0x05, // mov dx, 0x500
	0xee,       // out dx, al
	0xeb, 0xfe, // jmp $
}, text...)

func main() {
	s := new(screen)
	reason, err := run(context.Background(), s)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(s)
	fmt.Println(reason)
}

// run builds a machine with the screen and runs the program.
func run(ctx context.Context, s *screen) (vmm.Reason, error) {
	m, err := vmm.New(vmm.Config{
		Memory: 64 << 10, // ends below the screen
		Load:   vmm.RealMode(0x1000, program...),
		MMIO:   []vmm.Window{{Name: "screen", Base: screenBase, Size: screenSize, Handler: s}},
	})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.Run(ctx)
}
