package sandbox

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/monitor"
)

// TraceEvent is a line of Config.Trace. Fields that do not apply are zero, and
// absent from the JSON. What the guest chose is in it as numbers, and as names of
// ours for them; text of the guest's own is only a kernel panic's message, in the
// Text of the end.
type TraceEvent = monitor.TraceEvent

// dupFile returns another descriptor of the same open file, for the monitor.
func dupFile(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("fcntl", dupErr)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
