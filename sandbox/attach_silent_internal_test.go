package sandbox

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// deafAgent starts every command, and answers nothing after that.
type deafAgent struct {
	proto.AgentService
	got chan<- []byte // what was typed; nil discards it
}

func (a deafAgent) Exec(_ context.Context, s proto.Agent_ExecServer) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	if err := s.Send(&proto.ExecOutput{Output: &proto.ExecOutput_Started{Started: &proto.ExecStarted{Pid: 1}}}); err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if b := m.GetStdin(); b != nil && a.got != nil {
			a.got <- b
		}
	}
}

// silentTerminal is a terminal whose guest answers nothing.
func silentTerminal(t *testing.T, a deafAgent) *Terminal {
	t.Helper()
	server, err := ttrpc.NewServer()
	require.NoError(t, err)
	proto.RegisterAgentService(server, a)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	go func() { _ = server.Serve(context.Background(), l) }()
	t.Cleanup(func() { server.Close() })
	conn, err := net.Dial("unix", socket)
	require.NoError(t, err)
	exec, err := proto.StartExec(t.Context(), conn, &proto.ExecStart{Id: "k", Args: []string{"sh"}, Tty: true, Stdin: true, Keep: true}, nil, nil)
	require.NoError(t, err)
	return &Terminal{sb: &Sandbox{name: "box"}, ctx: t.Context(), id: "k", exec: exec}
}

func requireAbandoned(t *testing.T, term *Terminal) {
	t.Helper()
	left := make(chan error, 1)
	go func() { left <- term.Wait() }()
	select {
	case err := <-left:
		require.ErrorIs(t, err, ErrDetached)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.ErrorContains(t, err, "did not answer")
	case <-time.After(30 * time.Second):
		t.Fatal("a silent guest keeps its caller")
	}
}

func TestTerminal_SilentGuestIsLeftByDetach(t *testing.T) {
	t.Parallel()
	term := silentTerminal(t, deafAgent{})
	require.NoError(t, term.Detach())
	requireAbandoned(t, term)
	require.NoError(t, term.Detach())
}

// More key presses than the guest gives credit for, then the keys.
func TestTerminal_SilentGuestIsLeftByKeys(t *testing.T) {
	t.Parallel()
	term := silentTerminal(t, deafAgent{})
	r, w := io.Pipe()
	go term.typeStdin(r, []byte("\x10\x11"))
	go func() {
		for range 10 * proto.Window {
			_, _ = w.Write([]byte("x"))
		}
		_, _ = w.Write([]byte("\x10"))
		_, _ = w.Write([]byte("\x11"))
	}()
	requireAbandoned(t, term)
}

// What is typed before the keys is sent before the guest is asked to let go;
// a program that is far ahead waits.
func TestTerminal_TypedBeforeTheKeysIsSent(t *testing.T) {
	t.Parallel()
	got := make(chan []byte, proto.Window)
	term := silentTerminal(t, deafAgent{got: got})
	text := bytes.Repeat([]byte("0123456789abcdef"), proto.MaxChunk/4) // a quarter of the window
	go term.typeStdin(bytes.NewReader(append(bytes.Clone(text), "\x10\x11rest"...)), []byte("\x10\x11"))
	var all []byte
	for len(all) < len(text) {
		select {
		case b := <-got:
			all = append(all, b...)
		case <-time.After(30 * time.Second):
			t.Fatalf("%d bytes of %d arrived", len(all), len(text))
		}
	}
	require.Equal(t, text, all)
	requireAbandoned(t, term)
}

// liarAgent lists commands by names that are no IDs.
type liarAgent struct {
	proto.AgentService
	id string
}

func (a liarAgent) Execs(context.Context, *proto.ExecsRequest) (*proto.ExecList, error) {
	return &proto.ExecList{Execs: []*proto.ExecInfo{{Id: a.id, Keep: true, Tty: true}}}, nil
}

func TestListedExecs_IDsOfAGuestThatLies(t *testing.T) {
	for _, id := range []string{"\x1b]0;owned\a", "a b", "a/b", "é", strings.Repeat("a", 65)} {
		_, err := listExecs(t.Context(), liarClient{liarAgent{id: id}})
		require.Error(t, err, id)
		require.NotContains(t, err.Error(), "\x1b")
		_, err = (&Sandbox{name: "box"}).Reattach(t.Context(), id, AttachOptions{})
		require.ErrorIs(t, err, ErrNoTerminal, id)
		require.NotContains(t, err.Error(), "\x1b")
	}
	list, err := listExecs(t.Context(), liarClient{liarAgent{id: "Az0._-"}})
	require.NoError(t, err)
	require.Len(t, list, 1)
}

// liarClient calls it without a connection.
type liarClient struct{ a liarAgent }

func (c liarClient) Execs(ctx context.Context, r *proto.ExecsRequest) (*proto.ExecList, error) {
	return c.a.Execs(ctx, r)
}

// endless is a program that types for ever.
type endless struct{ read atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.read.Add(int64(len(p)))
	return len(p), nil
}

func TestTerminal_TypesNoFurtherThanItsBound(t *testing.T) {
	t.Parallel()
	term := silentTerminal(t, deafAgent{})
	r := new(endless)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		term.typeStdin(r, []byte("\x10\x11"))
	}()
	require.Eventually(t, func() bool { return r.read.Load() >= maxTyped }, 10*time.Second, time.Millisecond)
	require.NoError(t, term.Detach())
	requireAbandoned(t, term)
	<-ended
	require.LessOrEqual(t, r.read.Load(), int64(maxTyped+(proto.Window+3)*proto.MaxChunk))
}
