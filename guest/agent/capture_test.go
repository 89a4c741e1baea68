package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// outputEnv is where a pretend guest connects with what is captured.
const outputEnv = "AGENT_TEST_OUTPUT"

// host is the reading side of the captured output.
type host struct {
	t    *testing.T
	conn net.Conn
	done chan struct{}

	mu   sync.Mutex
	seen map[string]*bytes.Buffer // by id and stream
	err  error
}

// newCapturingGuest is a guest whose host has accepted the connection and not
// read from it.
func newCapturingGuest(t *testing.T) (*guest, *host) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	t.Setenv(outputEnv, path)
	g := newGuest(t, "plain", &proto.SetupRequest{Capture: true})
	conn, err := l.Accept()
	require.NoError(t, err, "connected before Setup is answered")
	t.Cleanup(func() { conn.Close() })
	return g, &host{t: t, conn: conn, done: make(chan struct{}), seen: map[string]*bytes.Buffer{}}
}

func key(id string, stream uint32) string { return id + "/" + string(rune('0'+stream)) }

// read reads to the end of the connection.
func (h *host) read() *host {
	go func() {
		defer close(h.done)
		r := proto.NewOutputReader(h.conn)
		for {
			rec, err := r.Next()
			h.mu.Lock()
			if err != nil {
				h.err = err
				h.mu.Unlock()
				h.conn.Close()
				return
			}
			k := key(rec.GetId(), rec.GetStream())
			if h.seen[k] == nil {
				h.seen[k] = &bytes.Buffer{}
			}
			h.seen[k].Write(rec.GetData())
			h.mu.Unlock()
		}
	}()
	return h
}

func (h *host) got(id string, stream uint32) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.seen[key(id, stream)]; b != nil {
		return b.String()
	}
	return ""
}

func (h *host) eventually(id string, stream uint32, want string) {
	h.t.Helper()
	require.Eventually(h.t, func() bool { return h.got(id, stream) == want }, 10*time.Second, time.Millisecond)
}

func sh(id, script string) *proto.ExecStart {
	return &proto.ExecStart{Id: id, Args: []string{"sh", "-c", script}}
}

func TestCapture(t *testing.T) {
	g, h := newCapturingGuest(t)
	h.read()
	t.Run("beside the caller", func(t *testing.T) {
		r := g.run(sh("both", "echo out; echo err >&2"))
		require.Equal(t, "out\n", r.stdout)
		h.eventually("both", proto.StreamStdout, "out\n")
		h.eventually("both", proto.StreamStderr, "err\n")
	})
	t.Run("without a reader", func(t *testing.T) {
		e, err := g.start(sh("nobody", "echo unread; echo neither >&2"), nil, nil)
		require.NoError(t, err)
		_, err = e.Wait()
		require.NoError(t, err)
		h.eventually("nobody", proto.StreamStdout, "unread\n")
		h.eventually("nobody", proto.StreamStderr, "neither\n")
	})
	t.Run("much", func(t *testing.T) {
		r := g.run(sh("much", "seq 300000"))
		require.Equal(t, 1988895, len(r.stdout))
		h.eventually("much", proto.StreamStdout, r.stdout)
	})
	t.Run("what was written before the reader left", func(t *testing.T) {
		e, err := proto.StartExec(g.ctx(), g.dial(), sh("epipe", "trap '' PIPE; seq 1000; sleep 0.2; while echo more 2>/dev/null; do :; done"), failingWriter{}, nil)
		require.NoError(t, err)
		_, err = e.Wait()
		require.ErrorIs(t, err, errFull)
		require.Eventually(t, func() bool { return strings.HasPrefix(h.got("epipe", proto.StreamStdout), lines(1000)) }, 10*time.Second, time.Millisecond)
	})
	t.Run("what was written before the caller left", func(t *testing.T) {
		ctx, cancel := context.WithCancel(g.ctx())
		// The writer takes nothing: lines that come one by one use the credit up,
		// and the rest, which a pipe holds, waits in it.
		const script = "for i in $(seq 20); do echo $i; sleep 0.01; done; seq 21 10000; echo x >"
		started := make(chan struct{})
		e, err := proto.StartExec(ctx, g.dial(), sh("left", script+filepath.Join(filepath.Dir(g.socket), "left")+"; sleep 100"), blockedWriter{started, ctx.Done()}, nil)
		require.NoError(t, err)
		<-started
		require.Eventually(t, func() bool {
			m, _ := filepath.Glob(filepath.Join(filepath.Dir(g.socket), "left"))
			return len(m) == 1
		}, 10*time.Second, time.Millisecond, "a pipe holds all of it")
		cancel()
		_, err = e.Wait()
		require.Error(t, err)
		h.eventually("left", proto.StreamStdout, lines(10000))
	})
	t.Run("no terminal", func(t *testing.T) {
		var out bytes.Buffer
		e, err := g.start(&proto.ExecStart{Id: "tty", Args: []string{"echo", "secret"}, Tty: true}, &out, nil)
		require.NoError(t, err)
		_, err = e.Wait()
		require.NoError(t, err)
		require.Equal(t, "secret\r\n", out.String())
		g.run(sh("after", "echo after"))
		h.eventually("after", proto.StreamStdout, "after\n")
		require.Empty(t, h.got("tty", proto.StreamStdout))
	})
	t.Run("to the last at the end", func(t *testing.T) {
		var out bytes.Buffer
		e, err := g.start(sh("last", "trap 'seq 50000; exit' TERM; echo up; while :; do sleep 0.01; done"), &out, nil)
		require.NoError(t, err)
		h.eventually("last", proto.StreamStdout, "up\n")
		go func() { _, _ = g.client().Shutdown(g.ctx(), &proto.ShutdownRequest{GraceNs: int64(10 * time.Second)}) }()
		_, err = e.Wait()
		require.NoError(t, err)
		<-h.done
		require.Equal(t, io.EOF, h.err, "between two records")
		require.Equal(t, "up\n"+lines(50000), h.got("last", proto.StreamStdout))
		<-g.done
	})
}

func lines(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		b.WriteString(strconv.Itoa(i))
		b.WriteByte('\n')
	}
	return b.String()
}

var errFull = errors.New("full")

type failingWriter struct{}

func (failingWriter) Write(p []byte) (int, error) { return 0, errFull }

type blockedWriter struct {
	started chan struct{}
	until   <-chan struct{}
}

func (w blockedWriter) Write(p []byte) (int, error) {
	close(w.started)
	<-w.until
	return 0, errFull
}

// A command waits for a host that does not read, however fast its caller is,
// and can still be killed.
func TestCaptureHoldsCommandsUp(t *testing.T) {
	g, h := newCapturingGuest(t)
	var out bytes.Buffer
	e, err := g.start(sh("held", "seq 300000"), &out, nil)
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err = e.Wait()
	}()
	killed, err2 := g.start(sh("killed", "seq 3000000; sleep 100"), nil, nil)
	require.NoError(t, err2)
	_, err2 = g.client().Signal(g.ctx(), &proto.SignalRequest{Id: "killed", Signal: 9})
	require.NoError(t, err2)
	select {
	case <-ended:
		t.Fatal("2 MiB fit into no socket's buffer")
	case <-time.After(200 * time.Millisecond):
	}
	h.read()
	<-ended
	require.NoError(t, err)
	h.eventually("held", proto.StreamStdout, lines(300000))
	exit, err := killed.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 9, exit.GetSignal())
}

// With the connection gone, commands go on.
func TestCaptureBroken(t *testing.T) {
	g, h := newCapturingGuest(t)
	require.NoError(t, h.conn.Close())
	r := g.run(sh("on", "seq 300000"))
	require.Equal(t, 1988895, len(r.stdout))
	require.Zero(t, r.exit.GetCode())
}

func TestCaptureNeedsAHost(t *testing.T) {
	t.Setenv(outputEnv, filepath.Join(t.TempDir(), "nobody"))
	g := newGuest(t, "plain", nil)
	_, err := g.client().Setup(g.ctx(), &proto.SetupRequest{Capture: true})
	require.ErrorContains(t, err, "no such file")
}
