package sandpit_test

// threat is an item of the checklist of what a hostile driver can try, or a row
// of the list of past bugs of systems like this one.
type threat struct {
	number int
	title  string
	ids    []string // of advisories; a test's name may carry one instead of the number
	where  string   // if no comment in the code names the number
	out    string   // why nothing here can be attacked so
	guest  bool     // tried from inside a guest too
}

// checklist has an item for each thing to try with a device. Tests carry the
// number in their names: TestQueue_T14_AvailJump, or T14_AvailJump for an attack
// of internal/hostile.
var checklist = []threat{
	// The transport.
	{number: 1, title: "registers only as aligned words; other widths read zero and write nothing", guest: true},
	{number: 2, title: "configuration space at any offset and width; zeros past its end; no writes before DRIVER or after FAILED", guest: true},
	{number: 3, title: "the status moves only by the four legal steps", guest: true},
	{number: 4, title: "features that were not offered, or lack VERSION_1, are refused, and frozen once agreed", guest: true},
	{number: 5, title: "a queue that does not exist reads zero and ignores writes", guest: true},
	{number: 6, title: "queue registers are frozen when the queue is ready", guest: true},
	{number: 7, title: "queue sizes of zero, beyond the maximum, or no power of two", guest: true},
	{number: 8, title: "rings misaligned, wrapping, or not wholly in RAM", guest: true},
	{number: 9, title: "rings that overlap each other or anything else", guest: true},
	{number: 10, title: "notifications for no queue, too early, or without end", guest: true},
	{number: 11, title: "interrupt acknowledgements with unknown bits", guest: true},
	{number: 12, title: "the configuration's generation moves when it changes, and only then", guest: true},
	{number: 13, title: "queue reset only if it was negotiated (it is not offered)", where: "virtio/mmio_regs.go", guest: true},
	// Rings and chains.
	{number: 14, title: "an available index that jumps or goes back", guest: true},
	{number: 15, title: "a head beyond the table", guest: true},
	{number: 16, title: "a next beyond the table", guest: true},
	{number: 17, title: "loops", guest: true},
	{number: 18, title: "empty buffers", guest: true},
	{number: 19, title: "buffers that wrap, cross the end of RAM, or lie in a hole", guest: true},
	{number: 20, title: "more bytes in a chain than a request can need", guest: true},
	{number: 21, title: "something to read after something to write", guest: true},
	{number: 22, title: "nothing is written to readable buffers or to the table", where: "virtio/chain.go", guest: true},
	{number: 23, title: "descriptors and headers that change while they are read", guest: true},
	{number: 24, title: "the used length is what was really written", guest: true},
	{number: 25, title: "every head comes back once at most, malformed or not", guest: true},
	{number: 26, title: "the used ring keeps to the size that was checked", guest: true},
	{number: 27, title: "indexes that wrap, and any used_event", guest: true},
	{number: 28, title: "a queue that is never empty takes nothing from others", guest: true},
	{number: 29, title: "one head offered several times", guest: true},
	// Indirect tables.
	{number: 30, title: "an indirect table that was not negotiated", guest: true},
	{number: 31, title: "tables that are empty, too long, no multiple of an entry, or outside RAM", guest: true},
	{number: 32, title: "a table in a table", guest: true},
	{number: 33, title: "a table that is not the end of its chain", guest: true},
	{number: 34, title: "the WRITE flag of a table means nothing", guest: true},
	{number: 35, title: "direct descriptors, then a table", guest: true},
	{number: 36, title: "a table that changes while it is read", guest: true},
	// Life and death.
	{number: 37, title: "a reset waits for what is in flight; nothing is touched afterwards", guest: true},
	{number: 38, title: "completions and reports of a life that has ended", guest: true},
	{number: 39, title: "resets over and over, under load", where: "virtio/mmio_status.go", guest: true},
	{number: 40, title: "a second driver, without a farewell from the first", where: "virtio/mmio_status.go", guest: true},
	{number: 41, title: "a pause lets the devices finish", where: "vmm/gate.go", guest: true},
	{number: 42, title: "a restored state is checked like a guest's", out: "machines are not saved and restored yet"},
	{number: 43, title: "NEEDS_RESET stops all queues and lasts until a reset", guest: true},
	{number: 44, title: "registers from several vCPUs at once", guest: true},
	{number: 45, title: "a panic in a device ends its life, not the monitor's", guest: true},
	// Block.
	{number: 46, title: "a request's header, data and status laid over buffers in any way", guest: true},
	{number: 47, title: "sectors beyond the disk, and sums that overflow", guest: true},
	{number: 48, title: "lengths that are no sectors", guest: true},
	{number: 49, title: "read-only disks, whatever was negotiated", guest: true},
	{number: 50, title: "the serial number's length; unknown requests", guest: true},
	{number: 51, title: "ranges to discard or to zero: how many, how long, which flags", guest: true},
	{number: 52, title: "the host's errors reach the guest as a status", guest: true},
	{number: 53, title: "a file that is made shorter under a mapping", guest: true},
	// Network.
	{number: 54, title: "frames too short or too long, headers in pieces", out: noNetwork},
	{number: 55, title: "checksum and segmentation offsets", out: noNetwork},
	{number: 56, title: "receive buffers that are too small", out: noNetwork},
	{number: 57, title: "forged addresses", out: noNetwork},
	{number: 58, title: "commands of the control queue", out: noNetwork},
	{number: 59, title: "fragments, flows and connections without end", out: noNetwork},
	// Sockets.
	{number: 60, title: "packets shorter than a header, or than they say", guest: true},
	{number: 61, title: "unknown types and operations, forged addresses", guest: true},
	{number: 62, title: "credit that lies, shrinks, wraps or is exceeded", guest: true},
	{number: 63, title: "connections, half-open ones and resets without end", guest: true},
	{number: 64, title: "ports that nobody listens on", guest: true},
	{number: 65, title: "data after a shutdown; packets without data", guest: true},
	{number: 66, title: "a peer that never has room", where: "virtio/vsock_credit.go", guest: true},
	// Shared directories.
	{number: 67, title: "message sizes", out: noShares},
	{number: 68, title: "reused tags, requests flushed twice", out: noShares},
	{number: 69, title: "handles without end, unknown ones, reused ones", out: noShares},
	{number: 70, title: "names", out: noShares},
	{number: 71, title: "counts and offsets", out: noShares},
	{number: 72, title: "special files, other file systems, ways out", out: noShares},
	{number: 73, title: "set-user-id bits, device nodes, attributes", out: noShares},
	{number: 74, title: "read-only at the device", out: noShares},
	{number: 75, title: "a host's file system that blocks", out: noShares},
	{number: 76, title: "locks and directory positions", out: noShares},
	// The small devices.
	{number: 77, title: "entropy: how much at once, and how much a second", guest: true},
	{number: 78, title: "balloon: pages that are no RAM; the size it claims", guest: true},
	{number: 79, title: "balloon: nothing but whole pages of RAM is given back", guest: true},
	{number: 80, title: "balloon: unknown statistics, touching what was given away, storms", guest: true},
	{number: 81, title: "console: one port, and no way to more", where: "virtio/console.go", guest: true},
	{number: 82, title: "output and input without end; what the host holds; escape sequences", guest: true},
	// The monitor.
	{number: 83, title: "exits that nobody knows end the machine with a reason", where: "vmm/vcpu.go", guest: true},
	{number: 84, title: "port and memory accesses of every width and at every edge", where: "devices/bus.go", guest: true},
	{number: 85, title: "halts and triple faults", where: "vmm/vcpu.go", guest: true},
	{number: 86, title: "what a guest provokes does not fill the log", guest: true},
}

const (
	noNetwork = "there is no network device yet"
	noShares  = "there are no shared directories yet"
)

// advisories has a row for each past bug of a system like this one. Tests carry
// an advisory's id in their names (TestAdvisory_CVE_2019_18960), or the row's
// number where it is about images (TestPull_Row32_HostileBlob).
var advisories = []threat{
	{number: 1, ids: []string{"CVE-2026-5747"}, title: "Firecracker: queue registers writable after activation", where: "virtio/mmio.go"},
	{number: 2, ids: []string{"CVE-2019-18960"}, title: "Firecracker: vsock buffers beyond the end of guest memory", where: "virtio/chain.go"},
	{number: 3, ids: []string{"CVE-2020-16843"}, title: "Firecracker: a full receive ring wedges the device", where: "virtio/vsock_sender.go"},
	{number: 4, ids: []string{"Firecracker-serial-buffer"}, title: "Firecracker: input for the serial port buffered without limit", where: "devices/serial.go"},
	{number: 5, ids: []string{"vm-virtio-196", "Firecracker-3149"}, title: "rust-vmm: an available index beyond the queue", where: "virtio/queue.go"},
	{number: 6, ids: []string{"CVE-2026-1386"}, title: "Firecracker's jailer: links in a directory that was there before", out: "there is no launcher with more rights than its caller"},
	{number: 7, ids: []string{"CVE-2026-27211"}, title: "Cloud Hypervisor: a raw disk taken for another format by its content", where: "virtio/blk_file.go, qcow2"},
	{number: 8, ids: []string{"CVE-2026-45782"}, title: "Cloud Hypervisor: block requests that complete after a reset", where: "virtio/mmio_status.go"},
	{number: 9, ids: []string{"CloudHypervisor-7918", "CloudHypervisor-7903", "CloudHypervisor-8506", "CloudHypervisor-8405"}, title: "Cloud Hypervisor: asserts on what guests write", where: "virtio/mmio.go, devices/bus.go"},
	{number: 10, ids: []string{"CloudHypervisor-8401"}, title: "Cloud Hypervisor: a block request of a header only stalls the queue", where: "virtio/blk.go"},
	{number: 11, ids: []string{"CVE-2021-3748"}, title: "QEMU: a header split over buffers is written after they were unmapped", where: "virtio/vsock_sender.go"},
	{number: 12, ids: []string{"CVE-2022-26354"}, title: "QEMU: a malformed vsock packet leaks its element", where: "virtio/vsock.go"},
	{number: 13, ids: []string{"CVE-2016-5403"}, title: "QEMU: memory grows with requests that nobody waits for", where: "virtio/queue.go"},
	{number: 14, ids: []string{"CVE-2026-48914"}, title: "QEMU: more written than there is room", where: "virtio/chain.go"},
	{number: 15, ids: []string{"CVE-2026-93834"}, title: "QEMU: a race in 9p", out: noShares},
	{number: 16, ids: []string{"CVE-2016-7116", "CVE-2017-7471", "CVE-2017-7493", "CVE-2016-9602"}, title: "QEMU: ways out of a directory (here of copied files: there are no shares yet)", where: "sandbox"},
	{number: 17, ids: []string{"CVE-2023-2861"}, title: "QEMU: special files opened on the host", where: "sandbox"},
	{number: 18, ids: []string{"CVE-2016-9103", "CVE-2016-8578", "CVE-2016-9913", "CVE-2016-9915"}, title: "QEMU: leaks and old memory in 9p", out: noShares},
	{number: 19, ids: []string{"CVE-2020-10717"}, title: "virtiofsd: descriptors without end", out: noShares},
	{number: 20, ids: []string{"CVE-2026-46695"}, title: "BoxLite: a read-only share enforced in the guest only", out: noShares},
	{number: 21, ids: []string{"CVE-2026-77179"}, title: "Docker Sandboxes: a file reopened by its path", out: noShares},
	{number: 22, ids: []string{"CVE-2026-49238"}, title: "Multipass: a directory told by its name's beginning", out: noShares},
	{number: 23, ids: []string{"CVE-2026-47243", "CVE-2026-44210", "CVE-2026-24054", "CVE-2026-24834", "CVE-2020-2023", "CVE-2020-2024", "CVE-2020-2026"}, title: "Kata: images without layers, shared images that guests write", where: "ociroot"},
	{number: 24, ids: []string{"CVE-2026-23069", "CVE-2026-23086", "CVE-2025-21756", "CVE-2024-50264"}, title: "Linux: vsock credit that underflows, or is taken from the peer", where: "virtio/vsock_credit.go"},
	{number: 25, ids: []string{"RUSTSEC-2023-0056", "CVE-2023-41051", "CVE-2023-50711"}, title: "rust-vmm: guest memory through a short slice; lengths taken on trust", where: "kvm/guestmem"},
	{number: 26, ids: []string{"GHSA-52h2-m2cf-9jh6"}, title: "rust-vmm: a kernel image that loops the loader", where: "boot"},
	{number: 27, ids: []string{"CVE-2026-9539"}, title: "libslirp: the urgent pointer", out: noNetwork},
	{number: 28, ids: []string{"gvisor-8025", "gvisor-5922", "gvisor-9139", "tailscale-4144", "tailscale-4308"}, title: "netstack: packets that panic", out: noNetwork},
	{number: 29, ids: []string{"CVE-2026-96812", "GHSA-2h39-83vm-vq42", "CVE-2018-19333"}, title: "gVisor: host devices handed to a guest", out: "a guest is given no device of the host's"},
	{number: 30, ids: []string{"CVE-2026-17106", "CVE-2021-29136", "CVE-2020-15229", "GO-2022-0921", "CVE-2026-11940"}, title: "archives: links that lead elsewhere", where: "ociroot/flatten"},
	{number: 31, ids: []string{"go-microvm-70", "go-microvm-38"}, title: "archives: whiteouts through links; bombs", where: "ociroot/flatten"},
	{number: 32, ids: []string{"CVE-2022-23648", "GO-2022-0360", "CVE-2026-55686", "GO-2022-0803"}, title: "images: what their configuration names; two documents in one; credentials", where: "ociroot"},
	{number: 33, ids: []string{"CVE-2024-21626", "CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"}, title: "runc: descriptors of the host that leak to what is confined", out: "guests have no descriptors of the host's; confining the monitor comes later"},
	{number: 34, ids: []string{"sandbox-runtime-88", "microsandbox-675", "OpenShell-1169", "CubeSandbox-1183"}, title: "network policy: two parsers of one name", out: noNetwork},
}

// codeRooms are where comments such as "T14" name an item.
var codeRooms = []string{"virtio", "devices", "kvm", "boot", "vmm"}
