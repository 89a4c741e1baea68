package hostile

// Where the program and what it uses lie in guest memory: near the end, where an
// attack that gives pages away by chance, as to a balloon, does not find it.
const (
	base = 0x3e0_0000

	addrGDT      = base + 0x500
	addrIDT      = base + 0x1000
	addrCounters = base + 0x2000  // of interrupts, 4 bytes per vector
	addrMailbox  = base + 0x3000  // of vCPU 0; vCPU 1's is a page higher
	addrLoop     = base + 0x5000  // the loop, then the routines
	addrStack    = base + 0x6800  // end of vCPU 0's, which grows down; vCPU 1's is 1 KiB higher
	addrTable    = base + 0x7000  // of routines
	addrHandlers = base + 0x9000  // of interrupts, 64 bytes each
	addrData     = base + 0x10000 // 64 KiB for vCPU 0, then as much for vCPU 1
	addrPML4     = base + 0x30000 // then a PDPT and eight page directories

	addrAP = 0x8000 // where vCPU 1 starts, in real mode: once

	// Memory is the size of the guest's RAM in bytes.
	Memory = 64 << 20
	// DataSize is what the commands of a batch move at most.
	DataSize = 64 << 10
)

// What the program talks through.
const (
	portCommand = 0x5e0 // reading gives the next command; vCPU 1's is 4 higher
	portVerdict = 0x5f0 // a byte per attack
	firstVector = 0x30  // of interrupt line 0
)

// A mailbox holds up to maxEntries commands, in entries of 64 bytes.
const (
	entrySize    = 64
	entryCommand = 0  // index of a routine
	entryAddress = 8  // RDI, and DX
	entryValue   = 16 // R8; the result is left here
	entryCount   = 24 // RCX
	entryData    = 32 // R13; what follows is zero
	maxEntries   = 4096 / entrySize
)

// loop asks how many commands there are, which waits until there are any, and
// carries them out. R14 is the mailbox, R12 the port.
var loop = []byte{
	0x44, 0x89, 0xe2, //             next: mov edx, r12d
	0xed,             //             in eax, dx
	0x41, 0x89, 0xc7, //             mov r15d, eax
	0x4c, 0x89, 0xf3, //             mov rbx, r14
	0x8b, 0x03, //            entry: mov eax, [rbx]
	0x48, 0x8b, 0x7b, 0x08, //       mov rdi, [rbx+8]
	0x4c, 0x8b, 0x43, 0x10, //       mov r8, [rbx+16]
	0x48, 0x8b, 0x4b, 0x18, //       mov rcx, [rbx+24]
	0x4c, 0x8b, 0x6b, 0x20, //       mov r13, [rbx+32]
	0x89, 0xfa, //                   mov edx, edi
	0xff, 0x14, 0xc5, 0x00, 0x70, 0xe0, 0x03, // call [rax*8 + addrTable]
	0x48, 0x83, 0xc3, 0x40, //       add rbx, 64
	0x41, 0xff, 0xcf, 0x75, 0xdc, // dec r15d; jnz entry
	0xeb, 0xd0, //                   jmp next
}

// A command is an index into routines.
type command uint32

const (
	cmdNothing command = iota
	cmdLoad8
	cmdLoad16
	cmdLoad32
	cmdLoad64
	cmdStore8
	cmdStore16
	cmdStore32
	cmdStore64
	cmdCopyIn
	cmdCopyOut
	cmdStorm
	cmdIn8
	cmdIn16
	cmdIn32
	cmdOut8
	cmdOut16
	cmdOut32
	cmdInString
	cmdOutString
	cmdScribble
	cmdSpin
	cmdInterrupts
	cmdJump
	cmdTripleFault
	cmdHalt
	commands
)

// routines are what the commands do. They can lie anywhere.
var routines = [commands][]byte{
	cmdNothing: {0xc3},                                                 // ret
	cmdLoad8:   {0x0f, 0xb6, 0x07, 0x48, 0x89, 0x43, 0x10, 0xc3},       // movzx eax, byte [rdi]; mov [rbx+16], rax; ret
	cmdLoad16:  {0x0f, 0xb7, 0x07, 0x48, 0x89, 0x43, 0x10, 0xc3},       // movzx eax, word [rdi]; …
	cmdLoad32:  {0x8b, 0x07, 0x48, 0x89, 0x43, 0x10, 0xc3},             // mov eax, [rdi]; …
	cmdLoad64:  {0x48, 0x8b, 0x07, 0x48, 0x89, 0x43, 0x10, 0xc3},       // mov rax, [rdi]; …
	cmdStore8:  {0x44, 0x89, 0xc0, 0x88, 0x07, 0xc3},                   // mov eax, r8d; mov [rdi], al; ret
	cmdStore16: {0x44, 0x89, 0xc0, 0x66, 0x89, 0x07, 0xc3},             // …; mov [rdi], ax; ret
	cmdStore32: {0x44, 0x89, 0xc0, 0x89, 0x07, 0xc3},                   // …; mov [rdi], eax; ret
	cmdStore64: {0x4c, 0x89, 0xc0, 0x48, 0x89, 0x07, 0xc3},             // mov rax, r8; mov [rdi], rax; ret
	cmdCopyIn:  {0x4c, 0x89, 0xee, 0xf3, 0xa4, 0xc3},                   // mov rsi, r13; rep movsb; ret
	cmdCopyOut: {0x48, 0x89, 0xfe, 0x4c, 0x89, 0xef, 0xf3, 0xa4, 0xc3}, // mov rsi, rdi; mov rdi, r13; rep movsb; ret
	cmdStorm: {
		0x44, 0x89, 0xc0, //       mov eax, r8d
		0x89, 0x07, //       again: mov [rdi], eax
		0x48, 0xff, 0xc9, 0x75, 0xf9, // dec rcx; jnz again
		0xc3,
	},
	cmdIn8:       {0xec, 0x0f, 0xb6, 0xc0, 0x48, 0x89, 0x43, 0x10, 0xc3},       // in al, dx; movzx eax, al; mov [rbx+16], rax; ret
	cmdIn16:      {0x66, 0xed, 0x0f, 0xb7, 0xc0, 0x48, 0x89, 0x43, 0x10, 0xc3}, // in ax, dx; movzx eax, ax; …
	cmdIn32:      {0xed, 0x48, 0x89, 0x43, 0x10, 0xc3},                         // in eax, dx; …
	cmdOut8:      {0x44, 0x89, 0xc0, 0xee, 0xc3},                               // mov eax, r8d; out dx, al; ret
	cmdOut16:     {0x44, 0x89, 0xc0, 0x66, 0xef, 0xc3},                         // …; out dx, ax; ret
	cmdOut32:     {0x44, 0x89, 0xc0, 0xef, 0xc3},                               // …; out dx, eax; ret
	cmdInString:  {0x4c, 0x89, 0xef, 0xf3, 0x6c, 0xc3},                         // mov rdi, r13; rep insb; ret
	cmdOutString: {0x4c, 0x89, 0xee, 0xf3, 0x6e, 0xc3},                         // mov rsi, r13; rep outsb; ret
	cmdScribble: { // four patterns of RCX bytes to RDI, one after the other, R8 times
		0x49, 0x89, 0xf9, //                   mov r9, rdi
		0x49, 0x89, 0xca, //                   mov r10, rcx
		0x4c, 0x89, 0xee, //            again: mov rsi, r13
		0xba, 0x04, 0x00, 0x00, 0x00, //       mov edx, 4
		0x4c, 0x89, 0xcf, //          pattern: mov rdi, r9
		0x4c, 0x89, 0xd1, //                   mov rcx, r10
		0xf3, 0xa4, //                         rep movsb
		0xff, 0xca, 0x75, 0xf4, //             dec edx; jnz pattern
		0x49, 0xff, 0xc8, 0x75, 0xe7, //       dec r8; jnz again
		0xc3,
	},
	cmdSpin:        {0x44, 0x39, 0x07, 0xf3, 0x90, 0x75, 0xf9, 0xc3}, // again: cmp [rdi], r8d; pause; jne again; ret
	cmdInterrupts:  {0xfb, 0xc3},                                     // sti; ret
	cmdJump:        {0xff, 0xe7},                                     // jmp rdi
	cmdTripleFault: {0x0f, 0x01, 0x5b, 0x28, 0xcc},                   // lidt [rbx+40], which is empty; int3
	cmdHalt:        {0xfa, 0xf4, 0xeb, 0xfc},                         // again: cli; hlt; jmp again
}

// apStart takes vCPU 1 from where a start-up IPI puts it to the loop. At 0xf0
// and 0xf8 of its page are the arguments of LGDT and LIDT.
var apStart = []byte{
	0xfa,       //                         cli
	0x31, 0xc0, //                         xor ax, ax
	0x8e, 0xd8, //                         mov ds, ax
	0x66, 0x0f, 0x01, 0x16, 0xf0, 0x80, // lgdt [0x80f0]
	0x66, 0xb8, 0x20, 0x00, 0x00, 0x00, // mov eax, 0x20 (PAE)
	0x0f, 0x22, 0xe0, //                   mov cr4, eax
	0x66, 0xb8, 0x00, 0x00, 0xe3, 0x03, // mov eax, addrPML4
	0x0f, 0x22, 0xd8, //                   mov cr3, eax
	0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, // mov ecx, 0xc0000080 (EFER)
	0x0f, 0x32, //                         rdmsr
	0x66, 0x0d, 0x00, 0x01, 0x00, 0x00, // or eax, 0x100 (LME)
	0x0f, 0x30, //                         wrmsr
	0x66, 0xb8, 0x11, 0x00, 0x00, 0x80, // mov eax, 0x80000011 (PG, ET, PE)
	0x0f, 0x22, 0xc0, //                   mov cr0, eax
	0x66, 0xea, 0x3e, 0x80, 0x00, 0x00, 0x08, 0x00, // jmp 8:wide
	0xb8, 0x10, 0x00, 0x00, 0x00, //       wide: mov eax, 0x10
	0x8e, 0xd8, //                         mov ds, eax
	0x8e, 0xc0, //                         mov es, eax
	0x8e, 0xd0, //                         mov ss, eax
	0x0f, 0x01, 0x1c, 0x25, 0xf8, 0x80, 0x00, 0x00, // lidt [0x80f8]
	0x41, 0xbe, 0x00, 0x40, 0xe0, 0x03, // mov r14d, addrMailbox + 0x1000
	0x41, 0xbc, 0xe4, 0x05, 0x00, 0x00, // mov r12d, portCommand + 4
	0xbc, 0x00, 0x6c, 0xe0, 0x03, //       mov esp, addrStack + 0x400
	0xb8, 0x00, 0x50, 0xe0, 0x03, //       mov eax, addrLoop
	0xff, 0xe0, //                         jmp rax
}

// handler counts an interrupt of vector v and tells the local APIC that it was
// dealt with.
func handler(v int) []byte {
	at := addrCounters + 4*v
	return []byte{
		0x50,                                                          // push rax
		0xb8, byte(at), byte(at >> 8), byte(at >> 16), byte(at >> 24), // mov eax, the counter
		0xf0, 0xff, 0x00, //                         lock inc dword [rax]
		0xb8, 0xb0, 0x00, 0xe0, 0xfe, //             mov eax, 0xfee000b0 (EOI)
		0xc7, 0x00, 0x00, 0x00, 0x00, 0x00, //       mov dword [rax], 0
		0x58,       //                               pop rax
		0x48, 0xcf, //                               iretq
	}
}
