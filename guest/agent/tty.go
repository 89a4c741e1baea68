package agent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Size of a terminal whose client names none.
const (
	defaultRows = 24
	defaultCols = 80
)

// terminal is a pseudo-terminal: the agent keeps the master, the command gets
// the slave.
type terminal struct {
	master *os.File
	slave  int
}

// openTerminal makes a terminal of the given size, owned by uid.
func openTerminal(rows, cols uint32, uid uint32) (*terminal, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &Error{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	t := &terminal{master: os.NewFile(uintptr(fd), "ptmx"), slave: -1}
	if err := t.openSlave(fd, uid); err != nil {
		t.master.Close()
		return nil, err
	}
	if err := t.resize(rows, cols); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *terminal) openSlave(master int, uid uint32) error {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return &Error{Op: "unlock terminal", Err: err}
	}
	n, err := unix.IoctlGetUint32(master, unix.TIOCGPTN)
	if err != nil {
		return &Error{Op: "number of terminal", Err: err}
	}
	path := fmt.Sprintf("/dev/pts/%d", n)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &Error{Op: "open", Path: path, Err: err}
	}
	t.slave = fd
	if err := unix.Fchown(fd, int(uid), -1); err != nil {
		t.closeSlave()
		return &Error{Op: "chown", Path: path, Err: err}
	}
	return nil
}

func (t *terminal) closeSlave() {
	if t.slave >= 0 {
		unix.Close(t.slave)
		t.slave = -1
	}
}

func (t *terminal) close() {
	t.closeSlave()
	t.master.Close()
}

// resize sets the size, and the kernel sends SIGWINCH if it changed.
func (t *terminal) resize(rows, cols uint32) error {
	return resizeTerminal(t.master, rows, cols)
}

// terminalSize fills in what is not given.
func terminalSize(rows, cols uint32) (uint32, uint32) {
	if rows == 0 {
		rows = defaultRows
	}
	if cols == 0 {
		cols = defaultCols
	}
	return rows, cols
}

// resize sets the size of the command's terminal.
func (x *execution) resize(rows, cols uint32) error {
	if x.kept != nil {
		return x.kept.resize(rows, cols)
	}
	return resizeTerminal(x.master, rows, cols)
}

func resizeTerminal(master *os.File, rows, cols uint32) error {
	rows, cols = terminalSize(rows, cols)
	rc, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	err = rc.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
	})
	if err != nil {
		return err
	}
	return ioctlErr
}

func sizeOfTerminal(master *os.File) (rows, cols uint32, err error) {
	rc, err := master.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var size *unix.Winsize
	var ioctlErr error
	err = rc.Control(func(fd uintptr) { size, ioctlErr = unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ) })
	if err == nil {
		err = ioctlErr
	}
	if err != nil {
		return 0, 0, err
	}
	return uint32(size.Row), uint32(size.Col), nil
}
