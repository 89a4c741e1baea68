package l1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

// stdio holds both ends of a command's standard streams: three pipes or one
// pseudo-terminal.
type stdio struct {
	master *os.File // the pty's, or nil
	theirs []*os.File
	in     *os.File // we write
	out    *os.File // we read
	err    *os.File // we read; nil with a pty

	input  sync.WaitGroup
	output sync.WaitGroup
}

func (c *command) openStdio() (*stdio, error) {
	if c.spec.TTY {
		return openTTY(c.spec.Rows, c.spec.Cols)
	}
	st := &stdio{}
	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	errR, errW, err3 := os.Pipe()
	st.theirs = []*os.File{inR, outW, errW}
	st.in, st.out, st.err = inW, outR, errR
	if err := errors.Join(err1, err2, err3); err != nil {
		st.closeAll()
		return nil, err
	}
	return st, nil
}

// openTTY makes a pseudo-terminal of the given size.
func openTTY(rows, cols uint16) (*stdio, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	st := &stdio{master: master, in: master, out: master}
	fail := func(err error) (*stdio, error) {
		st.closeAll()
		return nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	var n int
	if err := control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		var err error
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	}); err != nil {
		return fail(err)
	}
	if err := setSize(master, rows, cols); err != nil {
		return fail(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fail(err)
	}
	st.theirs = []*os.File{slave, slave, slave}
	return st, nil
}

// control calls f with the descriptor, leaving it to the poller.
func control(f *os.File, call func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := rc.Control(func(fd uintptr) { result = call(int(fd)) }); err != nil {
		return err
	}
	return result
}

func setSize(tty *os.File, rows, cols uint16) error {
	return control(tty, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

// fds returns the child's descriptors 0, 1, 2. Fd makes them blocking, which is
// what programs expect of their standard streams.
func (st *stdio) fds() []uintptr {
	fds := make([]uintptr, len(st.theirs))
	for i, f := range st.theirs {
		fds[i] = f.Fd()
	}
	return fds
}

func (st *stdio) closeTheirs() {
	for _, f := range st.theirs {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (st *stdio) closeAll() {
	st.closeTheirs()
	for _, f := range []*os.File{st.in, st.out, st.err} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// pump starts the goroutines that carry the streams; finish joins them.
func (st *stdio) pump(c *command) {
	st.input.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.stdin.Read(buf)
			if err != nil {
				break
			}
			if _, err := st.in.Write(buf[:n]); err != nil {
				break // nobody reads: no more credit is granted
			}
		}
		if st.master != nil {
			// What a terminal sends for the end of its input.
			_, _ = st.master.Write([]byte{4})
			return
		}
		_ = st.in.Close()
	})
	st.output.Go(func() { carry(c.stdout, st.out) })
	if st.err != nil {
		st.output.Go(func() { carry(c.stderr, st.err) })
	} else {
		_ = c.stderr.Close()
	}
}

// carry sends what can be read from f, to its end.
func carry(to *wire.Sender, f *os.File) {
	buf := make([]byte, wire.MaxData)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				// Aborted: the command must not block on a full pipe.
				_, _ = io.Copy(io.Discard, f)
				break
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			drain(to, f)
			break
		}
		if err != nil {
			break // EOF, or EIO from a pty without a slave
		}
	}
	_ = to.Close()
}

// drain sends what is in the pipe now and does not wait for more.
func drain(to *wire.Sender, f *os.File) {
	buf := make([]byte, wire.MaxData)
	for {
		n := 0
		if err := control(f, func(fd int) (err error) {
			n, err = unix.Read(fd, buf)
			return err
		}); err != nil || n <= 0 {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// finish is called when the first process has ended. It waits for the rest of
// the output, then kills those who still hold it open, and then stops waiting
// for any who escaped the cgroup; whatever they wrote so far is sent.
func (st *stdio) finish(c *command) {
	c.stdin.Fail(io.EOF)
	_ = st.in.SetWriteDeadline(time.Now())
	st.input.Wait()
	done := make(chan struct{})
	go func() {
		defer close(done)
		st.output.Wait()
	}()
	select {
	case <-done:
	case <-time.After(grace):
		c.killRest()
		deadline := time.Now().Add(grace)
		_ = st.out.SetReadDeadline(deadline)
		if st.err != nil {
			_ = st.err.SetReadDeadline(deadline)
		}
		<-done
	}
	_ = st.out.Close()
	if st.err != nil {
		_ = st.err.Close()
	}
}
