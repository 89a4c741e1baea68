package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/state"
)

// ErrGone is returned when no monitor answers on the control socket.
var ErrGone = errors.New("the sandbox is not running")

// socketDir makes the path of a directory short enough for a socket address
// (108 bytes, unix(7)) whatever the path of the home is: through the
// descriptor of the directory itself.
func socketDir(d *state.Dir) (*os.File, string, error) {
	f, err := os.OpenFile(d.Path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", err
	}
	return f, "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) + "/" + state.ControlSocket, nil
}

// listen makes the control socket of a sandbox. The caller has the sandbox's
// lock: a socket that is there is one of a monitor that was killed.
func listen(d *state.Dir) (*net.UnixListener, error) {
	f, path, err := socketDir(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// Dial calls the monitor of a sandbox. After OpDial and OpWait the connection
// is returned, and the caller's to close; after all others it is nil.
func Dial(ctx context.Context, d *state.Dir, call Call) (net.Conn, *Answer, error) {
	f, path, err := socketDir(d)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (%w)", ErrGone, err)
	}
	defer f.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		return nil, nil, fmt.Errorf("%w (%w)", ErrGone, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	a, err := exchange(conn, call)
	if !stop() {
		conn.Close()
		return nil, nil, ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	if call.Op != OpDial && call.Op != OpWait {
		return nil, a, conn.Close()
	}
	return conn, a, nil
}

func exchange(conn net.Conn, call Call) (*Answer, error) {
	if err := json.NewEncoder(conn).Encode(call); err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrGone, err)
	}
	var a Answer
	if err := readLineMax(conn, &a, maxMessage); err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrGone, err)
	}
	if a.Error == errStarting.Error() {
		return nil, errStarting
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return &a, nil
}

// Watch waits for the end of a sandbox that another process created.
type Watch struct {
	conn  net.Conn
	ended chan struct{}
	final *state.State // set before ended; nil if the monitor died without a word
}

// NewWatch begins to wait. ErrGone if the sandbox does not run.
func NewWatch(ctx context.Context, d *state.Dir) (*Watch, error) {
	conn, _, err := Dial(ctx, d, Call{Op: OpWait})
	if err != nil {
		return nil, err
	}
	w := &Watch{conn: conn, ended: make(chan struct{})}
	go w.run()
	return w, nil
}

func (w *Watch) run() {
	defer close(w.ended)
	defer w.conn.Close()
	var a Answer
	if err := readLineMax(w.conn, &a, maxMessage); err == nil {
		w.final = a.Final
	}
}

// Ended is closed when the sandbox has ended, or Close was called.
func (w *Watch) Ended() <-chan struct{} { return w.ended }

// Final is the last state, nil if the monitor died without one. Call it after
// Ended.
func (w *Watch) Final() *state.State { return w.final }

// Close stops waiting.
func (w *Watch) Close() error {
	err := w.conn.Close()
	<-w.ended
	if errors.Is(err, net.ErrClosed) {
		return nil // the sandbox has ended
	}
	return err
}
