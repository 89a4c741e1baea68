package devices

// Exit is a port of one byte. Writing to it ends the machine with that byte as
// the exit code, the way QEMU's isa-debug-exit does, but without altering it.
// A guest uses it as the last thing it does:
//
//	outb(code, 0x500)
type Exit struct {
	exit func(code uint8)
}

// NewExit returns an exit port that calls exit for each byte written. The call
// is made on the writing vCPU's thread, possibly on several at once, and must
// not block.
func NewExit(exit func(code uint8)) *Exit { return &Exit{exit} }

// Read returns zeros: there is nothing to read.
func (e *Exit) Read(_ uint64, p []byte) { clear(p) }

// Write takes one byte at offset 0. Anything else is ignored.
func (e *Exit) Write(off uint64, p []byte) {
	if off == 0 && len(p) == 1 {
		e.exit(p[0])
	}
}
