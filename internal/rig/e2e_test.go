package rig_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// kvmrig builds the tool for a test that boots L1. Without QEMU such a test
// fails, whose remedy kvmrig itself prints; -short leaves it out.
func kvmrig(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots an emulated machine")
	}
	// A unix socket's path is short, and the user's warm rig is not ours.
	run, err := os.MkdirTemp("", "rig")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	t.Setenv("XDG_RUNTIME_DIR", run)
	built()
}

var built = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "kvmrig-test")
	if err != nil {
		panic(err)
	}
	exe := filepath.Join(dir, "kvmrig")
	cmd := exec.Command("go", "build", "-o", exe, "../../cmd/kvmrig")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
	}
	return exe
})

func TestMain(m *testing.M) {
	code := m.Run()
	if !testing.Short() {
		_ = os.RemoveAll(filepath.Dir(built()))
	}
	os.Exit(code)
}

type result struct {
	stdout, stderr string
	code           int
}

// run runs kvmrig, in any case to an end.
func run(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, built(), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	require.NoError(t, ctx.Err(), "%v: %s", args, errs.String())
	if err != nil {
		require.IsType(t, &exec.ExitError{}, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func TestE2E_StreamsStatusEnvironmentDirectory(t *testing.T) {
	kvmrig(t)
	t.Setenv("RIG_TEST", "a value\nwith \xff bytes")
	wd, err := os.Getwd()
	require.NoError(t, err)
	r := run(t, nil, "--emulate", "--", "sh", "-c",
		`echo err >&2; printf '%s|%s|%s|%s' "$PWD" "$RIG_TEST" "$KVMRIG" "$1"; exit 7`, "sh", "an \xfe argument")
	require.Equal(t, wd+"|a value\nwith \xff bytes|emulated|an \xfe argument", r.stdout)
	require.Equal(t, "err\n", r.stderr)
	require.Equal(t, 7, r.code)
}

func TestE2E_Machine(t *testing.T) {
	kvmrig(t)
	shared, private := t.TempDir(), t.TempDir()
	before := time.Now()
	r := run(t, nil, "--emulate", "--cpus", "3", "--memory", "1024", "--share", shared, built(), "--probe")
	require.Zero(t, r.code, "%s%s", r.stdout, r.stderr)
	require.Contains(t, r.stdout, "KVM is usable")

	r = run(t, nil, "--emulate", "--cpus", "3", "--memory", "1024", "--share", shared, "--", "sh", "-ec", `
		nproc; date +%s
		echo yes > `+shared+`/written; echo no > `+private+`/written; cat `+private+`/written
		test -w /tmp; test -w /run; test -d /dev/pts; echo x > /dev/shm/x; test -f /sys/fs/cgroup/cgroup.procs
		cat /sys/class/net/lo/operstate; sleep 1000 & exit 0`)
	require.Zero(t, r.code, "%s%s", r.stdout, r.stderr)
	lines := strings.Fields(r.stdout)
	require.Equal(t, "3", lines[0])
	now, err := strconv.ParseInt(lines[1], 10, 64)
	require.NoError(t, err)
	require.WithinRange(t, time.Unix(now, 0), before.Add(-time.Second), time.Now())
	require.Equal(t, "no", lines[2])
	got, err := os.ReadFile(filepath.Join(shared, "written"))
	require.NoError(t, err)
	require.Equal(t, "yes\n", string(got))
	require.NoFileExists(t, filepath.Join(private, "written"))
}

func TestE2E_BulkInAndOut(t *testing.T) {
	kvmrig(t)
	data := make([]byte, 64<<20)
	_, _ = rand.Read(data)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	r := run(t, bytes.NewReader(data), "--emulate", "--time", "--", "sh", "-c", `tee /dev/shm/in | sha256sum >&2; cat /dev/shm/in`)
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stderr, sum, "in")
	require.Equal(t, sum, fmt.Sprintf("%x", sha256.Sum256([]byte(r.stdout))), "out")
	t.Log(r.stderr)
}

func TestE2E_Failures(t *testing.T) {
	kvmrig(t)
	r := run(t, nil, "--warm", "start", "--memory", "1024")
	require.Zero(t, r.code, r.stderr)
	defer run(t, nil, "--warm", "stop")
	for _, c := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"/does/not/exist"}, 127, "no such file"},
		{[]string{"no-such-command"}, 127, "no-such-command"},
		{[]string{"/etc/passwd"}, 126, "permission denied"},
		{[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15, ""},
		{[]string{"--timeout", "1s", "sleep", "1000"}, 124, "time limit"},
		{[]string{"--timeout", "1s", "sh", "-c", `trap "" TERM; while :; do sleep 1; done`}, 124, "time limit"},
		{[]string{"--cpus", "99", "true"}, 125, "--cpus"},
		{[]string{"--fresh", "--emulate", "--kernel", "/etc/passwd", "true"}, 125, "ELF"},
		{[]string{"--fresh", "--emulate", "--qemu", "/nowhere", "true"}, 125, "apt-get install"},
		{[]string{"--fresh", "--emulate", "--append", "init=/x rdinit=/x", "true"}, 125, "panic"},
	} {
		r := run(t, nil, c.args...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.stderr)
		require.Contains(t, r.stderr, c.stderr, "%v", c.args)
	}
}

// start starts kvmrig with a command that prints "up" first, and waits for that.
func start(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(built(), args...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	up := make([]byte, 3)
	_, err = io.ReadFull(out, up)
	require.NoError(t, err, errs.String())
	require.Equal(t, "up\n", string(up))
	return cmd, &errs
}

// children returns the processes whose parent is pid.
func children(t *testing.T, pid int) []int {
	t.Helper()
	var pids []int
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) && fields[0] != "Z" {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(s)))
			pids = append(pids, n)
		}
	}
	return pids
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

func TestE2E_Signals(t *testing.T) {
	kvmrig(t)
	t.Run("SIGINT reaches the command", func(t *testing.T) {
		cmd, errs := start(t, "--emulate", "--", "sh", "-c", `trap "echo caught >&2; exit 9" INT; echo up; while :; do sleep 0.1; done`)
		require.NoError(t, cmd.Process.Signal(unix.SIGINT))
		_ = cmd.Wait()
		require.Equal(t, 9, cmd.ProcessState.ExitCode(), errs.String())
		require.Contains(t, errs.String(), "caught")
	})
	t.Run("a second one ends the rig", func(t *testing.T) {
		cmd, errs := start(t, "--emulate", "--", "sh", "-c", `trap "" INT TERM; echo up; while :; do sleep 1; done`)
		qemu := children(t, cmd.Process.Pid)
		require.Len(t, qemu, 1)
		require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
		time.Sleep(100 * time.Millisecond)
		require.True(t, alive(qemu[0]))
		require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
		_ = cmd.Wait()
		require.Equal(t, 128+15, cmd.ProcessState.ExitCode(), errs.String())
		require.False(t, alive(qemu[0]))
	})
	t.Run("SIGKILL leaves no QEMU", func(t *testing.T) {
		cmd, _ := start(t, "--emulate", "--", "sh", "-c", `echo up; exec sleep 1000`)
		qemu := children(t, cmd.Process.Pid)
		require.Len(t, qemu, 1)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		require.Eventually(t, func() bool { return !alive(qemu[0]) }, 5*time.Second, 10*time.Millisecond)
	})
	t.Run("SIGINT during the boot", func(t *testing.T) {
		cmd := exec.Command(built(), "--emulate", "--", "true")
		require.NoError(t, cmd.Start())
		var qemu []int
		require.Eventually(t, func() bool { qemu = children(t, cmd.Process.Pid); return len(qemu) == 1 }, 10*time.Second, time.Millisecond)
		require.NoError(t, cmd.Process.Signal(unix.SIGINT))
		_ = cmd.Wait()
		require.Equal(t, 128+2, cmd.ProcessState.ExitCode())
		require.False(t, alive(qemu[0]))
	})
}

func TestE2E_Terminal(t *testing.T) {
	kvmrig(t)
	// exec: a child that dash has forked and that has not become its program yet
	// ignores SIGINT, and dash then waits for it.
	cmd := exec.Command(built(), "--emulate", "-t", "--", "sh", "-c",
		`test -t 0 && test -t 1 && test -t 2 && stty size && echo up && read line && stty size && echo "got $line" && exec sleep 1000`)
	master, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 31, Cols: 97})
	require.NoError(t, err)
	defer master.Close()
	var seen bytes.Buffer
	expect := func(s string) {
		t.Helper()
		buf := make([]byte, 1024)
		for !strings.Contains(seen.String(), s) {
			require.NoError(t, master.SetReadDeadline(time.Now().Add(time.Minute)))
			n, err := master.Read(buf)
			seen.Write(buf[:n])
			require.NoError(t, err, seen.String())
		}
	}
	expect("31 97\r\nup\r\n")
	require.NoError(t, pty.Setsize(master, &pty.Winsize{Rows: 12, Cols: 34}))
	time.Sleep(500 * time.Millisecond) // SIGWINCH and Enter travel separately
	_, err = master.Write([]byte("hello\r"))
	require.NoError(t, err)
	expect("12 34\r\ngot hello\r\n")
	_, err = master.Write([]byte{3}) // Ctrl-C
	require.NoError(t, err)
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait()
	require.Equal(t, 128+2, cmd.ProcessState.ExitCode(), seen.String())
}

func TestE2E_ColdRigsSideBySide(t *testing.T) {
	kvmrig(t)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			r := run(t, nil, "--emulate", "--memory", "512", "--", "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i))
			if r.code != i || r.stdout != fmt.Sprintln(i) {
				t.Errorf("%d: %+v", i, r)
			}
		})
	}
	wg.Wait()
}
