package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/internal/state"
)

func TestMain(m *testing.M) {
	RunIfMonitor()
	os.Exit(m.Run())
}

// The monitor's name alone does not make a monitor: without a creator's socket
// the process says what it is and ends.
func TestStartedByHand(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{ProcessName}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit))
	require.Equal(t, 2, exit.ExitCode())
	require.Contains(t, string(out), "a sandbox starts by itself")
}

// What arrives on the creator's socket instead of a Spec ends the process with
// an explanation.
func TestBadSpec(t *testing.T) {
	for name, tt := range map[string]struct{ sent, says string }{
		"nothing":       {"", "creator's message"},
		"not JSON":      {"hello\n", "creator's message"},
		"other version": {`{"Magic":"sandpit-monitor/0"}`, "it was replaced while it ran"},
		"no clock":      {`{"Magic":"` + magic + `"}`, "it was replaced while it ran"},
		"endless":       {`{"Magic":"` + strings.Repeat("x", maxSpec+10), "creator's message"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs, err := socketPair()
			require.NoError(t, err)
			cmd := exec.Command("/proc/self/exe")
			cmd.Args = []string{ProcessName}
			cmd.ExtraFiles = []*os.File{theirs}
			var out bytes.Buffer
			cmd.Stderr = &out
			require.NoError(t, cmd.Start())
			theirs.Close()
			_, _ = ours.Write([]byte(tt.sent)) // the monitor may end before it has all
			ours.Close()
			require.Error(t, cmd.Wait())
			require.Equal(t, 2, cmd.ProcessState.ExitCode())
			require.Contains(t, out.String(), tt.says)
		})
	}
}

// A monitor that is not given what it needs says so to its creator.
func TestMissingDescriptors(t *testing.T) {
	ours, theirs, err := socketPair()
	require.NoError(t, err)
	defer ours.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{ProcessName}
	cmd.ExtraFiles = []*os.File{theirs}
	require.NoError(t, cmd.Start())
	theirs.Close()
	require.NoError(t, json.NewEncoder(ours).Encode(Spec{
		Magic: magic, Clock: NewPhaseClock(), Files: []FileRole{{Role: RoleKVM}},
	}))
	var msg Message
	require.NoError(t, readMessage(ours, &msg))
	require.Equal(t, eventFailed, msg.Event)
	require.Contains(t, msg.Error, "inherited")
	require.Error(t, cmd.Wait())
}

func TestReadLine(t *testing.T) {
	var call Call
	r := strings.NewReader(`{"Op":"dial"}` + "\nrest")
	require.NoError(t, readLine(r, &call))
	require.Equal(t, OpDial, call.Op)
	require.Equal(t, 4, r.Len(), "not a byte more than the line is read")
	require.Error(t, readLine(strings.NewReader(`{"Op":"dial"}`), &call), "no end of line")
	require.ErrorContains(t, readLine(strings.NewReader(strings.Repeat("x", maxCall+2)), &call), "longer than")
}

func TestStops(t *testing.T) {
	s := newStops()
	for range 3 { // nobody waits, and nobody is held up
		s.request(stopRequest{reason: "first", grace: time.Second})
		s.request(stopRequest{reason: "now"})
	}
	require.Equal(t, "first", (<-s.graceful).reason)
	require.Equal(t, "now", (<-s.now).reason)
}

// testControl is a control socket without a machine behind it.
func testControl(t *testing.T) (*state.Dir, *control, *monitor) {
	t.Helper()
	home := state.Home{Sandboxes: filepath.Join(t.TempDir(), strings.Repeat("long", 40))}
	d, lock, err := home.Create("box", struct{}{}, false)
	require.NoError(t, err)
	t.Cleanup(func() { lock.Close() })
	l, err := listen(d)
	require.NoError(t, err)
	m := &monitor{stops: newStops(), log: slog.New(slog.DiscardHandler)}
	c := newControl(m, l)
	go c.serve()
	return d, c, m
}

func TestControl(t *testing.T) {
	d, c, m := testControl(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	_, _, err := Dial(ctx, d, Call{Op: OpDial})
	require.ErrorContains(t, err, "still starting")
	require.ErrorIs(t, err, ErrGone)
	_, _, err = Dial(ctx, d, Call{Op: "nonsense"})
	require.ErrorContains(t, err, `unknown operation "nonsense"`)

	boot := &Boot{Phases: []Phase{{"all", time.Second}}}
	c.ready(boot)
	_, answer, err := Dial(ctx, d, Call{Op: OpBoot})
	require.NoError(t, err)
	require.Equal(t, boot, answer.Boot)

	_, _, err = Dial(ctx, d, Call{Op: OpStop, Grace: time.Minute})
	require.NoError(t, err)
	require.Equal(t, time.Minute, (<-m.stops.graceful).grace)
	_, _, err = Dial(ctx, d, Call{Op: OpKill})
	require.NoError(t, err)
	require.Equal(t, ReasonKilled, (<-m.stops.now).reason)

	w, err := NewWatch(ctx, d)
	require.NoError(t, err)
	impatient, err := NewWatch(ctx, d)
	require.NoError(t, err)
	require.NoError(t, impatient.Close())
	silent, err := net.Dial("unix", "/proc/self/fd/"+socketFD(t, d))
	require.NoError(t, err)
	defer silent.Close()

	final := &state.State{Status: state.Stopped, Code: 7}
	c.refuse()
	c.end(final)
	<-w.Ended()
	require.Equal(t, final, w.Final())
	_, _, err = Dial(ctx, d, Call{Op: OpBoot})
	require.ErrorIs(t, err, ErrGone)
}

// socketFD opens the sandbox's directory and names its socket through it.
func socketFD(t *testing.T, d *state.Dir) string {
	t.Helper()
	f, path, err := socketDir(d)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return strings.TrimPrefix(path, "/proc/self/fd/")
}

func TestDialHonoursItsContext(t *testing.T) {
	d, _, _ := testControl(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, err := Dial(ctx, d, Call{Op: OpBoot})
	require.ErrorIs(t, err, context.Canceled)
}

// What a client writes is not the guest's, but it costs nothing to be sure.
func FuzzControl(f *testing.F) {
	f.Add([]byte(`{"Op":"boot"}` + "\n"))
	f.Add([]byte(`{"Op":"stop","Grace":-1}` + "\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		go func() {
			defer theirs.Close()
			_, _ = theirs.Write(data)
		}()
		var call Call
		_ = readLine(ours, &call)
	})
}
