package monitor

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/internal/logfile"
)

func testLog(t testing.TB, name string) (*logfile.Writer, func() []logfile.Entry) {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	w, err := logfile.Open(root, name, logfile.Limits{FileBytes: 10 << 20, Backups: 1})
	require.NoError(t, err)
	t.Cleanup(func() { w.Close() })
	return w, func() (all []logfile.Entry) {
		r := logfile.NewReader(root, name)
		defer r.Close()
		for {
			e, err := r.Next()
			if err == io.EOF {
				return all
			}
			require.NoError(t, err)
			all = append(all, e)
		}
	}
}

func pieces(entries []logfile.Entry) (out []string) {
	for _, e := range entries {
		out = append(out, string(e.Data))
	}
	return out
}

// Lines are made of what a serial port delivers a byte at a time.
func TestConsoleLog(t *testing.T) {
	w, read := testLog(t, "console")
	c := &consoleLog{log: w}
	for _, b := range []byte("one\r\ntw\ro\n\r\nthr") {
		n, err := c.Write([]byte{b})
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	require.Equal(t, []string{"one\n", "tw\ro\n", "\n"}, pieces(read()))
	n, err := c.Write([]byte("ee" + strings.Repeat("x", 2*maxConsoleLine)))
	require.NoError(t, err)
	require.Equal(t, 2+2*maxConsoleLine, n)
	c.flush()
	c.flush()
	got := pieces(read())
	require.Len(t, got, 6)
	require.Equal(t, "three"+strings.Repeat("x", 2*maxConsoleLine), strings.Join(got[3:], ""))
	require.NoError(t, w.Close())
	n, err = c.Write([]byte("dropped\n"))
	require.NoError(t, err, "the guest's console does not stop")
	require.Equal(t, 8, n)
}

// fakeListener hands out connections.
type fakeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *fakeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *fakeListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *fakeListener) Addr() net.Addr { return nil }

// sendOutput gives an outputLog a connection with these bytes and then its end.
func sendOutput(t testing.TB, in []byte) (entries []logfile.Entry) {
	t.Helper()
	w, read := testLog(t, "output")
	l := &fakeListener{make(chan net.Conn, 1), make(chan struct{})}
	o := newOutputLog(w, l, slog.New(slog.DiscardHandler))
	ours, theirs := net.Pipe()
	l.conns <- ours
	_ = theirs.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := theirs.Write(in)
	theirs.Close()
	if err != nil {
		require.ErrorIs(t, err, io.ErrClosedPipe, "the reader had enough")
	}
	require.True(t, o.wait(10*time.Second))
	<-l.closed
	return read()
}

func record(t testing.TB, r *proto.OutputRecord) []byte {
	t.Helper()
	b, err := proto.AppendOutputRecord(nil, r)
	require.NoError(t, err)
	return b
}

func TestOutputLog(t *testing.T) {
	good := append(record(t, &proto.OutputRecord{Id: "a", Stream: proto.StreamStdout, Data: []byte("out\nput")}),
		record(t, &proto.OutputRecord{Id: "b", Stream: proto.StreamStderr, Data: []byte("err\n")})...)
	all := sendOutput(t, good)
	require.Equal(t, []string{"out\n", "put", "err\n"}, pieces(all))
	require.Equal(t, "stdout", all[1].Source)
	require.Equal(t, "b", all[2].Exec)
	require.Equal(t, "stderr", all[2].Source)
	for name, bad := range map[string][]byte{
		"cut off":   {0, 0, 1, 0, 7},
		"too long":  {0xff, 0xff, 0xff, 0xff},
		"no record": {0, 0, 0, 1, 7},
		"bad id":    record(t, &proto.OutputRecord{Id: "\x1b", Stream: 1, Data: []byte("x")}),
	} {
		t.Run(name, func(t *testing.T) {
			all := sendOutput(t, append(bytes.Clone(good), bad...))
			require.Len(t, all, 4)
			require.Equal(t, logfile.Notice, all[3].Source)
			require.Contains(t, string(all[3].Data), "not captured any more")
		})
	}
}

// The end of a machine, with or without an agent that ever connected, is the
// log's.
func TestOutputLogEnds(t *testing.T) {
	w, read := testLog(t, "output")
	o := newOutputLog(w, &fakeListener{make(chan net.Conn), make(chan struct{})}, slog.New(slog.DiscardHandler))
	require.True(t, o.wait(10*time.Second))
	require.Empty(t, read())

	// A connection that is reset.
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	o = newOutputLog(w, l, slog.New(slog.DiscardHandler))
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	_, err = conn.Write(record(t, &proto.OutputRecord{Id: "a", Stream: 1, Data: []byte("x\n")}))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(read()) == 1 }, 10*time.Second, time.Millisecond)
	require.False(t, o.wait(time.Millisecond), "it still listens")
	rc, err := conn.(*net.UnixConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, rc.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) }))
	require.True(t, o.wait(10*time.Second))
	require.Len(t, read(), 1)
}

func FuzzOutputLog(f *testing.F) {
	f.Add(record(f, &proto.OutputRecord{Id: "a", Stream: 1, Data: []byte("x\ny")}))
	f.Add([]byte{0, 0, 0, 3, 10, 1, 'a'})
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, e := range sendOutput(t, in) {
			require.Contains(t, []string{logfile.Stdout, logfile.Stderr, logfile.Notice}, e.Source)
			require.LessOrEqual(t, len(e.Data), logfile.MaxPiece)
		}
	})
}
