// Command serialhello runs a guest that says hello on its serial port and
// switches itself off: package vmm with a guest of a few bytes in the place of
// a kernel.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/sandpit-vm/sandpit/vmm"
)

const text = "hello from real mode\n"

// program prints what follows it on the serial port and writes 7 to the exit
// port.
var program = []byte{
	0xbe, 0x14, 0x10, // mov si, 0x1014: the end of this program
	0xb9, byte(len(text)), 0, // mov cx, len(text)
	0xba, 0xf8, 0x03, // mov dx, 0x3f8
	0xfc,       // cld
	0xf3, 0x6e, // rep outsb
	0xb0, 7, // mov al, 7
	0xba, 0x00, 0x05, // mov dx, 0x500
	0xee,       // out dx, al
	0xeb, 0xfe, // jmp $, which is never reached
}

func main() {
	reason, err := run(context.Background(), os.Stdout)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reason)
}

// run runs the program and returns why it ended.
func run(ctx context.Context, serial io.Writer) (vmm.Reason, error) {
	m, err := vmm.New(vmm.Config{
		Memory: 64 << 10,
		Load:   vmm.RealMode(0x1000, append(program[:len(program):len(program)], text...)...),
		Serial: serial,
	})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.Run(ctx)
}
