package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/internal/monitor"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// connectedTo is a Sandbox whose monitor is a function: it gets each connection
// and the operation that was asked for.
func connectedTo(t *testing.T, serve func(net.Conn, string)) *Sandbox {
	t.Helper()
	t.Setenv("SANDPIT_HOME", t.TempDir())
	home, err := state.DefaultHome()
	require.NoError(t, err)
	dir, lock, err := home.Create("box", record{}, false)
	require.NoError(t, err)
	now := time.Now()
	require.NoError(t, dir.WriteJSON(state.StateFile, state.State{Status: Running, Created: now, Updated: now}))
	l, err := net.Listen("unix", dir.File(state.ControlSocket))
	require.NoError(t, err)
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		lock.Close()
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			go func() {
				var call monitor.Call
				line, err := bufio.NewReaderSize(conn, 16).ReadBytes('\n')
				if err == nil && json.Unmarshal(line, &call) == nil {
					serve(conn, call.Op)
				}
			}()
		}
	}()
	sb, err := Connect(t.Context(), "box")
	require.NoError(t, err)
	t.Cleanup(func() { sb.Close() })
	return sb
}

func answer(conn net.Conn) { _ = json.NewEncoder(conn).Encode(monitor.Answer{Boot: &monitor.Boot{}}) }

// inTime fails if a function takes very much longer than its context.
func inTime(t *testing.T, what string, do func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal(what + " goes on after its context ended")
		return nil
	}
}

// A guest that does not accept connections holds up nobody but those who call
// it, and those as long as they want to wait.
func TestAgentDoesNotAccept(t *testing.T) {
	sb := connectedTo(t, func(conn net.Conn, op string) {
		if op != monitor.OpDial {
			answer(conn)
		}
	})
	background, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { _, err := sb.FS().Stat(background, "/x"); first <- err }()
	second := make(chan error, 1)
	go func() { _, err := sb.Execs(background); second <- err }()
	require.Eventually(t, func() bool {
		sb.files.mu.Lock()
		defer sb.files.mu.Unlock()
		sb.agent.mu.Lock()
		defer sb.agent.mu.Unlock()
		return sb.files.dialing != nil && sb.agent.dialing != nil
	}, 10*time.Second, time.Millisecond)
	for range 2 { // who waits for another's dialing, too
		require.ErrorIs(t, inTime(t, "Stat", func(ctx context.Context) error { _, err := sb.FS().Stat(ctx, "/x"); return err }), context.DeadlineExceeded)
		require.ErrorIs(t, inTime(t, "Execs", func(ctx context.Context) error { _, err := sb.Execs(ctx); return err }), context.DeadlineExceeded)
	}
	require.NoError(t, inTime(t, "Stop", sb.Stop))
	require.ErrorIs(t, inTime(t, "Wait", func(ctx context.Context) error { _, err := sb.Wait(ctx); return err }), context.DeadlineExceeded)
	require.NoError(t, inTime(t, "Detach", func(context.Context) error { return sb.Detach() }))
	require.NoError(t, inTime(t, "Close", func(context.Context) error { return sb.Close() }))
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	require.ErrorIs(t, <-second, context.Canceled)
}

// A guest that takes nothing off its connections: calls return when their
// contexts end, those about files are in nobody else's way, and what is stuck
// is given up.
func TestAgentTakesNothing(t *testing.T) {
	sb := connectedTo(t, func(conn net.Conn, _ string) { answer(conn) })
	for link, fill := range map[*agentLink]func(context.Context) error{
		&sb.files: func(ctx context.Context) error {
			return sb.FS().WriteFile(ctx, "/x", make([]byte, proto.MaxChunk), 0o644)
		},
		&sb.agent: func(ctx context.Context) error {
			agent, err := sb.agentClient(ctx)
			if err != nil {
				return err
			}
			_, err = agent.Patch(ctx, &proto.PatchRequest{Data: make([]byte, proto.MaxChunk)})
			return err
		},
	} {
		var all sync.WaitGroup
		for range 2 * maxSharedCalls {
			all.Go(func() {
				if err := inTime(t, "a large call", fill); err == nil {
					t.Error("nobody answered")
				}
			})
		}
		all.Wait()
		link.mu.Lock()
		stuck := link.client
		link.mu.Unlock()
		require.NotNil(t, stuck, "it was given up at once")
		require.Error(t, inTime(t, "Execs", func(ctx context.Context) error { _, err := sb.Execs(ctx); return err }))
		c := sb.Command(t.Context(), "x")
		c.exec, c.id = &proto.Exec{}, "x"
		require.Error(t, inTime(t, "Signal", func(ctx context.Context) error { c.ctx = ctx; return c.Signal(syscall.SIGTERM) }))
		require.Eventually(t, func() bool {
			link.mu.Lock()
			defer link.mu.Unlock()
			return link.client != stuck
		}, 20*time.Second, 10*time.Millisecond, "a connection that is full stays")
	}
}

// A connection that somebody waits for, and that is made after Close, is closed.
func TestAgentDialedAfterClose(t *testing.T) {
	dialed, closed := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	sb := connectedTo(t, func(conn net.Conn, op string) {
		if op == monitor.OpDial {
			close(dialed)
			<-closed
		}
		answer(conn)
		if op == monitor.OpDial {
			_, err := conn.Read(make([]byte, 1))
			ended <- err
		}
	})
	got := make(chan error, 1)
	go func() { _, err := sb.Execs(t.Context()); got <- err }()
	<-dialed
	require.NoError(t, sb.Close())
	close(closed)
	require.ErrorIs(t, <-got, errClosed)
	require.Error(t, <-ended)
}
