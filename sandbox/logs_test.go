package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/internal/logfile"
	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/sandbox"
)

// loggedBox is a sandbox's directory with logs and no VM; end lets go of it as
// a monitor's end does.
func loggedBox(t *testing.T) (h *sandbox.Handle, console, output *logfile.Writer, end func()) {
	t.Helper()
	newHome(t)
	home, err := state.DefaultHome()
	require.NoError(t, err)
	dir, lock, err := home.Create("box", struct{}{}, false)
	require.NoError(t, err)
	t.Cleanup(func() { lock.Close() })
	root, err := os.OpenRoot(dir.Path)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	open := func(name string) *logfile.Writer {
		w, err := logfile.Open(root, name, logfile.Limits{FileBytes: 2000, Backups: 100})
		require.NoError(t, err)
		t.Cleanup(func() { w.Close() })
		return w
	}
	h, err = sandbox.Get(context.Background(), "box")
	require.NoError(t, err)
	return h, open(state.ConsoleLog), open(state.OutputLog), func() { lock.Close() }
}

// collect reads all that comes.
func collect(t testing.TB, h *sandbox.Handle, o sandbox.LogOptions) (all []sandbox.LogEntry) {
	t.Helper()
	for e, err := range h.Logs(deadline(t), o) {
		require.NoError(t, err)
		all = append(all, e)
	}
	return all
}

func text(entries []sandbox.LogEntry) string {
	var b strings.Builder
	for _, e := range entries {
		b.Write(e.Data)
	}
	return b.String()
}

func TestLogs(t *testing.T) {
	h, console, output, end := loggedBox(t)
	require.Empty(t, collect(t, h, sandbox.LogOptions{}))
	console.Append(logfile.Console, "", []byte("boot\n"))
	output.Append(logfile.Stdout, "A", []byte("out 1\nout 2\n"))
	output.Append(logfile.Stderr, "B", []byte("err 1\n"))
	time.Sleep(time.Millisecond)
	middle := time.Now()
	time.Sleep(time.Millisecond)
	console.Append(logfile.Console, "", []byte("oops\n"))
	output.Append(logfile.Stdout, "A", []byte("\x00\xff"))
	output.Notice("a disk was full")

	type o = sandbox.LogOptions
	all := collect(t, h, o{})
	require.Equal(t, "boot\nout 1\nout 2\nerr 1\noops\n\x00\xffa disk was full\n", text(all))
	require.Equal(t, sandbox.LogConsole, all[0].Source)
	require.Equal(t, sandbox.LogStderr, all[3].Source)
	require.Equal(t, "B", all[3].Exec)
	require.Equal(t, sandbox.LogNotice, all[6].Source)
	require.WithinDuration(t, time.Now(), all[6].Time, time.Minute)
	for name, tt := range map[string]struct {
		o    sandbox.LogOptions
		want string
	}{
		"stdout":               {o{Sources: []sandbox.LogSource{sandbox.LogStdout}}, "out 1\nout 2\n\x00\xffa disk was full\n"},
		"stderr and console":   {o{Sources: []sandbox.LogSource{sandbox.LogStderr, sandbox.LogConsole}}, "boot\nerr 1\noops\na disk was full\n"},
		"notices":              {o{Sources: []sandbox.LogSource{sandbox.LogNotice}}, "a disk was full\n"},
		"tail":                 {o{Tail: 3}, "oops\n\x00\xffa disk was full\n"},
		"tail of one":          {o{Tail: 2, Sources: []sandbox.LogSource{sandbox.LogConsole}}, "boot\noops\n"},
		"tail of more":         {o{Tail: 100}, text(all)},
		"tail of none":         {o{Tail: -1}, ""},
		"since":                {o{Since: middle}, "oops\n\x00\xffa disk was full\n"},
		"until":                {o{Until: middle}, "boot\nout 1\nout 2\nerr 1\n"},
		"tail until":           {o{Until: middle, Tail: 2}, "out 2\nerr 1\n"},
		"between":              {o{Since: all[1].Time, Until: all[1].Time}, "out 1\nout 2\n"},
		"until, and no longer": {o{Until: middle, Follow: true}, "boot\nout 1\nout 2\nerr 1\n"},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, text(collect(t, h, tt.o))) })
	}
	end()
	require.Equal(t, text(all), text(collect(t, h, o{Follow: true})), "following what has ended is reading it")

	for range h.Logs(context.Background(), o{}) {
		break // nothing is left behind
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, err := range h.Logs(ctx, o{}) {
		require.ErrorIs(t, err, context.Canceled)
	}
	for _, err := range h.Logs(context.Background(), o{Sources: []sandbox.LogSource{"stdin"}, Since: time.Now(), Until: middle}) {
		var bad *sandbox.ConfigError
		require.ErrorAs(t, err, &bad)
		require.Len(t, bad.Problems, 2)
	}
	require.NoError(t, h.Remove(context.Background()))
	n := 0
	for _, err := range h.Logs(context.Background(), o{}) {
		require.ErrorIs(t, err, sandbox.ErrNotFound)
		n++
	}
	require.Equal(t, 1, n)
}

// A follower gets everything once, in order, through rotations, and stops with
// the sandbox or its context.
func TestLogsFollow(t *testing.T) {
	h, console, output, end := loggedBox(t)
	output.Append(logfile.Stdout, "A", []byte("before\n"))
	var want strings.Builder
	next, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stop)
		<-next
		for i := range 500 {
			line := fmt.Sprintf("%d\n", i)
			output.Append(logfile.Stdout, "A", []byte(line))
			if i%50 == 0 {
				console.Append(logfile.Console, "", []byte("tick\n"))
				time.Sleep(5 * time.Millisecond)
			}
		}
		end()
	}()
	for i := range 500 {
		fmt.Fprintf(&want, "%d\n", i)
	}
	var out, ticks strings.Builder
	started := false
	for e, err := range h.Logs(deadline(t), sandbox.LogOptions{Follow: true, Tail: 1}) {
		require.NoError(t, err)
		switch {
		case !started:
			require.Equal(t, "before\n", string(e.Data))
			started = true
			close(next)
		case e.Source == sandbox.LogConsole:
			ticks.Write(e.Data)
		default:
			require.Equal(t, sandbox.LogStdout, e.Source, "%s", e.Data)
			out.Write(e.Data)
		}
	}
	<-stop
	require.Equal(t, want.String(), out.String())
	require.Equal(t, strings.Repeat("tick\n", 10), ticks.String())
}

func TestLogsFollowEndsWithItsContext(t *testing.T) {
	h, _, output, _ := loggedBox(t)
	output.Append(logfile.Stdout, "A", []byte("one\n"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last error
	for _, err := range h.Logs(ctx, sandbox.LogOptions{Follow: true}) {
		last = err
		cancel()
	}
	require.ErrorIs(t, last, context.Canceled)
}

// captured reads what a log has of a command.
func captured(t testing.TB, h *sandbox.Handle, cmd *sandbox.Cmd, s sandbox.LogSource) string {
	t.Helper()
	var b strings.Builder
	for _, e := range collect(t, h, sandbox.LogOptions{Sources: []sandbox.LogSource{s}}) {
		if e.Exec == cmd.ID() {
			require.Equal(t, s, e.Source, "%s", e.Data)
			b.Write(e.Data)
		}
	}
	return b.String()
}

// What commands write is in the log, whoever else reads it, through rotations,
// while the sandbox runs and afterwards; so is what the kernel says last.
func TestCaptureOutput(t *testing.T) {
	needVM(t)
	size := scaled(5 << 20)
	// Four files hold all of it, so that a slow follower misses nothing.
	sandbox.SetOutputFileBytes(int64(size) / 3)
	defer sandbox.SetOutputFileBytes(0)
	ctx := deadline(t)
	sb := create(t, "captured", sandbox.Config{Memory: 256, CaptureOutput: true})
	h, err := sandbox.Get(ctx, "captured")
	require.NoError(t, err)

	// It follows from the beginning to the end.
	followed := make(chan []sandbox.LogEntry, 1)
	go func() {
		var all []sandbox.LogEntry
		for e, err := range sb.Logs(ctx, sandbox.LogOptions{Follow: true}) {
			if err != nil {
				t.Errorf("follow: %v", err)
				break
			}
			if e.Source == sandbox.LogNotice {
				t.Errorf("follow: %s", e.Data)
			}
			all = append(all, e)
		}
		followed <- all
	}()
	of := func(all []sandbox.LogEntry, cmd *sandbox.Cmd) string {
		var b strings.Builder
		for _, e := range all {
			if e.Exec == cmd.ID() {
				b.Write(e.Data)
			}
		}
		return b.String()
	}

	nobody := sb.Shell(ctx, "echo out; echo err >&2; printf 'no end\\001\\377'")
	require.NoError(t, nobody.Run())
	var stdout bytes.Buffer
	both := sb.Shell(ctx, "echo hello")
	both.Stdout = &stdout
	require.NoError(t, both.Run())
	require.Equal(t, "hello\n", stdout.String())
	tty := sb.Command(ctx, "echo", "typed")
	tty.TTY = &sandbox.TTYSize{Rows: 24, Cols: 80}
	tty.Stdout = io.Discard
	require.NoError(t, tty.Run())
	kernel := sb.Shell(ctx, "echo '<0>a word from the kernel' >/dev/kmsg")
	require.NoError(t, kernel.Run())

	require.Eventually(t, func() bool { return captured(t, h, nobody, sandbox.LogStdout) == "out\nno end\x01\xff" }, 10*time.Second, 50*time.Millisecond)
	require.Equal(t, "err\n", captured(t, h, nobody, sandbox.LogStderr))
	require.Eventually(t, func() bool { return captured(t, h, both, sandbox.LogStdout) == "hello\n" }, 10*time.Second, 50*time.Millisecond)
	require.Empty(t, captured(t, h, tty, sandbox.LogStdout), "a terminal is never recorded")
	require.Eventually(t, func() bool {
		return strings.Contains(text(collect(t, h, sandbox.LogOptions{Sources: []sandbox.LogSource{sandbox.LogConsole}})), "a word from the kernel")
	}, 10*time.Second, 50*time.Millisecond)

	stdout.Reset()
	much := sb.Shell(ctx, fmt.Sprintf("head -c %d /dev/urandom | base64 -w 4000", size*3/4))
	much.Stdout = &stdout
	require.NoError(t, much.Run())
	require.Greater(t, stdout.Len(), size)

	// The last word of a command that the stop ends is there.
	last := sb.Shell(ctx, "trap 'echo the last word; exit' TERM; echo up; while :; do sleep 0.1; done")
	pipe, err := last.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, last.Start())
	_, err = io.ReadFull(pipe, make([]byte, 3))
	require.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, pipe) }()
	status, err := sb.StopAndWait(ctx)
	require.NoError(t, err)
	require.True(t, status.Success, "%+v", status)
	_ = last.Wait()
	require.Equal(t, "up\nthe last word\n", captured(t, h, last, sandbox.LogStdout))

	all := <-followed
	require.Equal(t, "out\nno end\x01\xff", strings.Replace(of(all, nobody), "err\n", "", 1))
	require.True(t, stdout.String() == of(all, much), "all %d bytes through rotations: got %d", stdout.Len(), len(of(all, much)))
	require.True(t, strings.HasSuffix(of(all, last), "the last word\n"))
	require.Equal(t, text(all[len(all)-5:]), text(collect(t, h, sandbox.LogOptions{Tail: 5})))
	var files []string
	entries, err := os.ReadDir(stateDir(t, "captured"))
	require.NoError(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "output.") {
			info, err := e.Info()
			require.NoError(t, err)
			require.LessOrEqual(t, info.Size(), int64(size)/3)
			files = append(files, e.Name())
		}
	}
	require.Len(t, files, 4, "it was rotated")
}

func stateDir(t testing.TB, name string) string {
	t.Helper()
	home, err := state.DefaultHome()
	require.NoError(t, err)
	dir, err := home.Open(name)
	require.NoError(t, err)
	return dir.Path
}

// The console of a sandbox that crashed can be read, and shows why; the next
// start adds to it.
func TestLogsAfterACrash(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	sb := create(t, "panics", sandbox.Config{Memory: 256})
	cmd := sb.Shell(ctx, "echo c >/proc/sysrq-trigger")
	require.Error(t, cmd.Run())
	status, err := sb.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, "crashed", status.Reason, "%+v", status)
	h, err := sandbox.Get(ctx, "panics")
	require.NoError(t, err)
	all := collect(t, h, sandbox.LogOptions{Follow: true})
	require.Contains(t, text(all), "Kernel panic - not syncing: sysrq triggered crash")
	for _, e := range all {
		require.Equal(t, sandbox.LogConsole, e.Source, "nothing was captured: %q", e.Data)
		require.NotContains(t, string(e.Data), "\r")
	}
	_, err = h.Metrics(ctx)
	require.ErrorIs(t, err, sandbox.ErrNotRunning)
	require.False(t, errors.Is(err, sandbox.ErrNotFound))
}
