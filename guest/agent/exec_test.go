package agent

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

func TestExec_Streams(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	r := g.sh("echo out; echo err >&2; exit 7")
	require.Equal(t, "out\n", r.stdout)
	require.Equal(t, "err\n", r.stderr)
	require.EqualValues(t, 7, r.exit.Code)
	require.Zero(t, r.exit.Signal)
	g.requireNoProcesses()
}

func TestExec_Surroundings(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{Env: []string{"A=setup", "B=setup"}})
	r := g.run(&proto.ExecStart{
		Args: []string{"sh", "-c", `echo "$A $B $C $HOME $USER $PATH"; pwd; id -u; id -g; id -G`},
		Env:  []string{"B=exec", "C=1", "C=2"},
		Dir:  "/usr/bin",
		User: "daemon",
	})
	lines := strings.Split(r.stdout, "\n")
	require.Equal(t, "setup exec 2 /usr/sbin daemon "+defaultPath, lines[0], r.stderr)
	require.Equal(t, []string{"/usr/bin", "1", "1", "1"}, lines[1:5])
	require.Equal(t, "/\n/dev/null\n", g.sh("pwd; readlink /proc/self/fd/0").stdout)
	require.Equal(t, "1234\n567\n567\n", g.run(&proto.ExecStart{Args: []string{"sh", "-c", "id -u; id -g; id -G"}, User: "1234:567"}).stdout)
	// Nothing of the agent's is inherited.
	require.Equal(t, "0\n1\n2\n3\n", g.run(&proto.ExecStart{Args: []string{"ls", "/proc/self/fd"}}).stdout)
	require.Equal(t, "0\n", g.sh(`sed -n 's/^SigBlk:\t0*\(.*\)/0\1/p' /proc/self/status`).stdout)
	// What PID 1 was started ignoring, as under nohup, its children ignore too;
	// the kernel starts it ignoring nothing.
	own, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, ignored, _ := strings.Cut(string(own), "SigIgn:\t")
	ignored, _, _ = strings.Cut(ignored, "\n")
	require.Equal(t, ignored+"\n", g.sh(`sed -n 's/^SigIgn:\t//p' /proc/self/status`).stdout)
	// A user can open its own output again.
	r = g.run(&proto.ExecStart{Args: []string{"sh", "-c", "echo again > /dev/stdout"}, User: "daemon"})
	require.Equal(t, "again\n", r.stdout, r.stderr)
}

func TestExec_StartFailures(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	dir, err := os.MkdirTemp("", "agent-test-")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	require.NoError(t, os.Chmod(dir, 0o755))
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), mode))
		return path
	}
	require.NoError(t, os.Mkdir(dir+"/closed", 0o700))
	file("closed/tool", "#!/bin/sh\n", 0o755)
	for _, c := range []struct {
		name  string
		start *proto.ExecStart
		kind  proto.StartFailure_Kind
		errno syscall.Errno
	}{
		{"not in PATH", &proto.ExecStart{Args: []string{"no-such-command"}}, proto.StartFailure_NOT_FOUND, syscall.ENOENT},
		{"no such file", &proto.ExecStart{Args: []string{"/no/such/file"}}, proto.StartFailure_NOT_FOUND, syscall.ENOENT},
		{"no interpreter", &proto.ExecStart{Args: []string{file("interp", "#!/no/such/interpreter\n", 0o755)}}, proto.StartFailure_NOT_FOUND, syscall.ENOENT},
		{"not executable mode", &proto.ExecStart{Args: []string{file("plain", "x", 0o644)}}, proto.StartFailure_PERMISSION, syscall.EACCES},
		{"directory", &proto.ExecStart{Args: []string{dir}}, proto.StartFailure_PERMISSION, syscall.EACCES},
		{"other user's file", &proto.ExecStart{Args: []string{file("mine", "#!/bin/sh\n", 0o700)}, User: "daemon"}, proto.StartFailure_PERMISSION, syscall.EACCES},
		{"other user's PATH", &proto.ExecStart{Args: []string{"tool"}, Env: []string{"PATH=" + dir + "/closed"}, User: "daemon"}, proto.StartFailure_PERMISSION, syscall.EACCES},
		{"not a program", &proto.ExecStart{Args: []string{file("noexec", "no magic", 0o755)}}, proto.StartFailure_NOT_EXECUTABLE, syscall.ENOEXEC},
		{"no directory", &proto.ExecStart{Args: []string{"true"}, Dir: "/no/such/dir"}, proto.StartFailure_BAD_DIR, syscall.ENOENT},
		{"directory is a file", &proto.ExecStart{Args: []string{"true"}, Dir: "/etc/passwd"}, proto.StartFailure_BAD_DIR, syscall.ENOTDIR},
		{"closed directory", &proto.ExecStart{Args: []string{"true"}, Dir: dir + "/closed", User: "daemon"}, proto.StartFailure_BAD_DIR, syscall.EACCES},
		{"relative directory", &proto.ExecStart{Args: []string{"true"}, Dir: "tmp"}, proto.StartFailure_BAD_DIR, 0},
		{"user", &proto.ExecStart{Args: []string{"true"}, User: "nosuchuser"}, proto.StartFailure_UNKNOWN_USER, 0},
		{"group", &proto.ExecStart{Args: []string{"true"}, User: "root:nosuchgroup"}, proto.StartFailure_UNKNOWN_USER, 0},
		{"uid -1", &proto.ExecStart{Args: []string{"true"}, User: "4294967295"}, proto.StartFailure_UNKNOWN_USER, 0},
		{"rlimit name", &proto.ExecStart{Args: []string{"true"}, Rlimits: []*proto.Rlimit{{Name: "files"}}}, proto.StartFailure_RLIMIT, 0},
		{"rlimit order", &proto.ExecStart{Args: []string{"true"}, Rlimits: []*proto.Rlimit{{Name: "core", Soft: 2, Hard: 1}}}, proto.StartFailure_RLIMIT, 0},
		{"rlimit value", &proto.ExecStart{Args: []string{"true"}, Rlimits: []*proto.Rlimit{{Name: "nofile", Soft: 1 << 40, Hard: 1 << 40}}}, proto.StartFailure_RLIMIT, syscall.EPERM},
		{"no args", &proto.ExecStart{}, proto.StartFailure_BAD_ARGS, 0},
		{"empty name", &proto.ExecStart{Args: []string{""}}, proto.StartFailure_BAD_ARGS, 0},
		{"NUL", &proto.ExecStart{Args: []string{"true", "a\x00b"}}, proto.StartFailure_BAD_ARGS, 0},
		{"long argument", &proto.ExecStart{Args: []string{"true", strings.Repeat("x", 200<<10)}}, proto.StartFailure_BAD_ARGS, syscall.E2BIG},
		{"too long", &proto.ExecStart{Args: []string{"true", strings.Repeat("x", proto.MaxArgBytes)}}, proto.StartFailure_BAD_ARGS, 0},
		{"env", &proto.ExecStart{Args: []string{"true"}, Env: []string{"=x"}}, proto.StartFailure_BAD_ARGS, 0},
		{"id", &proto.ExecStart{Id: "../../x", Args: []string{"true"}}, proto.StartFailure_BAD_ARGS, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := g.start(c.start, nil, nil)
			var failed *proto.StartError
			require.ErrorAs(t, err, &failed)
			require.Equal(t, c.kind, failed.Failure.GetKind(), failed.Error())
			require.Equal(t, c.errno, syscall.Errno(failed.Failure.GetErrno()), failed.Error())
			require.NotEmpty(t, failed.Error())
		})
	}
	g.requireNoProcesses()
}

func TestExec_Rlimits(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{Rlimits: []*proto.Rlimit{{Name: "core", Soft: 7, Hard: 8}, {Name: "nofile", Soft: 1, Hard: 1}}})
	start := &proto.ExecStart{Args: []string{"cat", "/proc/self/limits"}, User: "daemon"}
	want := map[string]string{"Max core file size": "7 8"}
	for _, l := range []struct{ name, kernel string }{
		{"as", "Max address space"}, {"cpu", "Max cpu time"}, {"data", "Max data size"},
		{"fsize", "Max file size"}, {"locks", "Max file locks"}, {"memlock", "Max locked memory"},
		{"msgqueue", "Max msgqueue size"}, {"nice", "Max nice priority"}, {"nofile", "Max open files"},
		{"nproc", "Max processes"}, {"rss", "Max resident set"}, {"rtprio", "Max realtime priority"},
		{"rttime", "Max realtime timeout"}, {"sigpending", "Max pending signals"}, {"stack", "Max stack size"},
	} {
		hard := uint64(4001 + len(start.Rlimits))
		switch l.name {
		case "as", "data", "stack":
			hard <<= 16
		}
		// Not every root may raise limits.
		resource, ok := rlimitResource(l.name)
		require.True(t, ok)
		var now syscall.Rlimit
		require.NoError(t, syscall.Getrlimit(resource, &now))
		hard = min(hard, now.Max)
		soft := max(hard, 1) - 1
		start.Rlimits = append(start.Rlimits, &proto.Rlimit{Name: l.name, Soft: soft, Hard: hard})
		want[l.kernel] = fmt.Sprintf("%d %d", soft, hard)
	}
	r := g.run(start)
	require.Zero(t, r.exit.Code, r.stderr)
	require.Len(t, want, 16)
	for kernel, values := range want {
		found := false
		for line := range strings.Lines(r.stdout) {
			if rest, ok := strings.CutPrefix(line, kernel); ok {
				require.Equal(t, values, strings.Join(strings.Fields(rest)[:2], " "), line)
				found = true
			}
		}
		require.True(t, found, "%s in %s", kernel, r.stdout)
	}
}

func TestExec_StdinDigest(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	data := make([]byte, 32<<20+12345)
	_, err := rand.Read(data)
	require.NoError(t, err)
	var out bytes.Buffer
	e, err := g.start(&proto.ExecStart{Args: []string{"sh", "-c", "tee /dev/stderr | sha256sum"}, Stdin: true}, &out, nil)
	require.NoError(t, err)
	n, err := e.Write(data)
	require.NoError(t, err)
	require.Equal(t, len(data), n)
	require.NoError(t, e.CloseStdin())
	exit, err := e.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	sum := sha256.Sum256(data)
	require.Equal(t, hex.EncodeToString(sum[:]), strings.Fields(out.String())[0])
}

func TestExec_StdinClosedByCommand(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	var out bytes.Buffer
	e, err := g.start(&proto.ExecStart{Args: []string{"sh", "-c", "head -c 5; exec <&-; sleep 0.3; echo; exit 3"}, Stdin: true}, &out, nil)
	require.NoError(t, err)
	_, err = io.CopyN(e, zeros{'x'}, 1<<30)
	require.ErrorIs(t, err, syscall.EPIPE)
	exit, err := e.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 3, exit.Code)
	require.Equal(t, "xxxxx\n", out.String())
}

// zeros reads one byte for ever.
type zeros struct{ b byte }

func (z zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = z.b
	}
	return len(p), nil
}

// A command that does not read its stdin stops its caller, grows nothing, and
// can be killed from another connection; the transport would have dropped the
// stream after a second.
func TestExec_StdinBackPressure(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	g.sh("true")
	before := g.rss()
	e, err := g.start(&proto.ExecStart{Id: "sleeper", Args: []string{"sleep", "1000"}, Stdin: true}, nil, nil)
	require.NoError(t, err)
	var sent int64
	ended := make(chan error, 1)
	go func() {
		var err error
		sent, err = io.CopyN(e, zeros{}, 1<<30)
		ended <- err
	}()
	time.Sleep(2500 * time.Millisecond)
	select {
	case err := <-ended:
		t.Fatal("stdin was taken, or failed:", err)
	default:
	}
	require.Less(t, g.rss()-before, int64(16<<20))
	require.Equal(t, "still here\n", g.sh("echo still here").stdout)
	_, err = g.client().Signal(g.ctx(), &proto.SignalRequest{Id: "sleeper", Signal: int32(syscall.SIGKILL)})
	require.NoError(t, err)
	exit, err := e.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 9, exit.Signal)
	require.EqualValues(t, 137, exit.Code)
	require.ErrorIs(t, <-ended, syscall.EPIPE)
	require.Less(t, sent, int64(4<<20))
	g.requireNoProcesses()
}

// A caller that does not read stops the command, and nothing is lost.
func TestExec_OutputBackPressure(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	before := g.rss()
	h := sha256.New()
	gate := make(chan struct{})
	out := writerFunc(func(p []byte) (int, error) {
		<-gate
		return h.Write(p)
	})
	e, err := proto.StartExec(g.ctx(), g.dial(), &proto.ExecStart{Id: "x", Args: []string{"head", "-c", "64M", "/dev/zero"}}, out, nil)
	require.NoError(t, err)
	time.Sleep(2500 * time.Millisecond)
	require.Less(t, g.rss()-before, int64(16<<20))
	select {
	case <-e.Done():
		t.Fatal("the command ended although nobody read")
	default:
	}
	close(gate)
	exit, err := e.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	want := sha256.New()
	_, _ = io.CopyN(want, zeros{}, 64<<20)
	require.Equal(t, want.Sum(nil), h.Sum(nil))
}

// writerFunc is a function as an io.Writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestExec_OutputReaderGone(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	enough := errors.New("enough")
	out := writerFunc(func([]byte) (int, error) { return 0, enough })
	e, err := proto.StartExec(g.ctx(), g.dial(), &proto.ExecStart{Id: "x", Args: []string{"yes"}}, out, nil)
	require.NoError(t, err)
	exit, err := e.Wait()
	require.ErrorIs(t, err, enough)
	require.EqualValues(t, syscall.SIGPIPE, exit.Signal)
}

func TestExec_ManyAtOnce(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 25 {
				var out bytes.Buffer
				e, err := proto.StartExec(g.ctx(), g.dial(), &proto.ExecStart{
					Id: fmt.Sprintf("m-%d-%d", i, j), Args: []string{"sh", "-c", fmt.Sprintf("echo %d; exit %d", j, j)},
				}, &out, nil)
				if err == nil {
					var exit *proto.ExecExit
					if exit, err = e.Wait(); err == nil && (exit.GetCode() != int32(j) || out.String() != fmt.Sprintf("%d\n", j)) {
						err = fmt.Errorf("code %d, output %q", exit.GetCode(), out.String())
					}
				}
				if err != nil {
					t.Errorf("%d %d: %v", i, j, err)
					return
				}
			}
		})
	}
	wg.Wait()
	g.requireNoProcesses()
}

func TestExec_SameID(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, err := g.start(&proto.ExecStart{Id: "one", Args: []string{"sleep", "100"}}, nil, nil)
	require.NoError(t, err)
	_, err = g.start(&proto.ExecStart{Id: "one", Args: []string{"true"}}, nil, nil)
	require.ErrorContains(t, err, "taken")
	require.NoError(t, e.Close())
	g.requireNoProcesses()
	require.Eventually(t, func() bool {
		_, err = g.start(&proto.ExecStart{Id: "one", Args: []string{"true"}}, nil, nil)
		return err == nil
	}, 5*time.Second, 10*time.Millisecond)
}
