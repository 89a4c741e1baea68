package monitor

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/state"
)

// magic opens the creator's message; a process that was merely given the
// monitor's name does not get it.
const magic = "sandpit-monitor/1"

// ProcessName is argv[0] of a monitor.
const ProcessName = "sandpit-monitor"

// handshakeFD is the monitor's end of the creator's socket; the files of the
// Spec follow it in order.
const handshakeFD = 3

// Spec is what a creator tells its monitor.
type Spec struct {
	Magic string
	// Name, Home and Ephemeral say where the sandbox's state lives and whether
	// it is deleted at the end.
	Name      string
	Home      state.Home
	Ephemeral bool
	// Detached sandboxes outlive their creator.
	Detached bool
	// Created is when creation began, Clock the phases of it so far.
	Created time.Time
	Clock   *PhaseClock

	CPUs     int
	Memory   uint64 // bytes
	Cmdline  string // appended to the standard one
	Hostname string
	Env      []string
	// RootType is the root disk's file system, "" for EROFS, "auto" to look.
	// RootDirect makes the disk itself the root; otherwise writes go to the
	// disk "upper" or, if there is none, to memory.
	RootType   string
	RootDirect bool
	// UpperTmpfs bounds what is kept in memory; 0 is half of it. In bytes.
	UpperTmpfs uint64
	// StopSignal asks the guest's processes to end; 0 is SIGTERM.
	StopSignal int
	// Hold lets no command run until the creator says so (Process.Begin), who
	// has changes to make before. Until then the sandbox is Starting, and ends
	// with its creator even if Detached.
	Hold bool
	// Capture keeps what commands without a terminal write. OutputFileBytes is
	// the size of a file of that log; 0 is 10 MiB.
	Capture         bool
	OutputFileBytes int64
	LogLevel        slog.Level
	// BootTimeout bounds the time until the agent is ready.
	BootTimeout time.Duration
	// StopGrace is how long a graceful stop may take before the machine is
	// switched off.
	StopGrace time.Duration
	// IdleTimeout and MaxDuration end the sandbox gracefully; 0: never.
	IdleTimeout, MaxDuration time.Duration
	// Scripts are files of /.msb/scripts, Rlimits defaults of all commands.
	Scripts map[string]string
	Rlimits []Rlimit

	// Files tells which of the inherited descriptors is which. Disks are
	// attached in the order of their names.
	Files []FileRole
}

// Rlimit is a resource limit of commands; see proto.Rlimit.
type Rlimit struct {
	Name       string
	Soft, Hard uint64
}

// disks is the number of disks.
func (s *Spec) disks() int {
	n := 0
	for _, f := range s.Files {
		if f.Role == RoleDisk {
			n++
		}
	}
	return n
}

// FileRole names an inherited descriptor.
type FileRole struct {
	Role     string // one of the Role constants
	Disk     string // the serial of a RoleDisk
	Format   string // of a RoleDisk: "" or "raw", or "qcow2"
	ReadOnly bool   // of a RoleDisk
	PMem     bool   // of a RoleDisk: read-only persistent memory, no block device
}

// The roles of descriptors.
const (
	RoleKVM       = "kvm"
	RoleLock      = "lock"
	RoleKernel    = "kernel"
	RoleInitramfs = "initramfs"
	RoleControl   = "control" // a listening Unix socket
	RoleDisk      = "disk"
)

// Message is what a monitor tells its creator, one JSON object after the
// other.
type Message struct {
	Event string // one of the event constants
	// Ready
	Boot *Boot `json:",omitempty"`
	// Failed
	Stage   string `json:",omitempty"`
	Error   string `json:",omitempty"`
	Console string `json:",omitempty"`
	// Ended
	State *state.State `json:",omitempty"`
}

// The events of a Message.
const (
	eventReady   = "ready"
	eventRunning = "running" // the answer to opBegin
	eventFailed  = "failed"
	eventEnded   = "ended"
)

// request is what a creator tells a monitor after the Spec.
type request struct{ Op string }

// The operations of a request.
const (
	opDetach = "detach"
	opBegin  = "begin" // ends the Hold
)

// maxSpec bounds what a monitor reads of its Spec.
const maxSpec = 4 << 20

// readSpec reads the Spec from the creator's socket.
func readSpec(dec *json.Decoder) (*Spec, error) {
	var s Spec
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("read the creator's message: %w", err)
	}
	if s.Magic != magic || s.Clock == nil {
		return nil, fmt.Errorf("the creator speaks %q, this program %q: it was replaced while it ran", s.Magic, magic)
	}
	return &s, nil
}

// inherited are the descriptors of a monitor by role.
type inherited struct {
	files map[string]*os.File
	disks []disk
}

type disk struct {
	FileRole
	file *os.File
}

// adopt takes the descriptors that the Spec lists.
func adopt(s *Spec) (*inherited, error) {
	in := &inherited{files: make(map[string]*os.File)}
	for i, r := range s.Files {
		fd := handshakeFD + 1 + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return nil, fmt.Errorf("descriptor %d (%s) was not inherited: %w", fd, r.Role, err)
		}
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), r.Role)
		if r.Role == RoleDisk {
			in.disks = append(in.disks, disk{r, f})
			continue
		}
		in.files[r.Role] = f
	}
	for _, role := range []string{RoleKVM, RoleLock, RoleKernel, RoleInitramfs, RoleControl} {
		if in.files[role] == nil {
			return nil, fmt.Errorf("no descriptor for the %s was inherited", role)
		}
	}
	return in, nil
}
