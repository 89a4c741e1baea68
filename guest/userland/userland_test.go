package userland

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// binDirEnv names a directory of links to this test binary by the commands' names: called
// through one of them, it is the userland.
const binDirEnv = "USERLAND_TEST_BIN"

func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); slices.Contains(Names(), strings.TrimPrefix(name, "-")) {
		os.Exit(Main(os.Args))
	}
	dir, err := os.MkdirTemp("", "userland")
	if err != nil {
		panic(err)
	}
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	for _, n := range Names() {
		if err := os.Symlink(exe, filepath.Join(dir, n)); err != nil {
			panic(err)
		}
	}
	os.Setenv(binDirEnv, dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func bin(name string) string { return filepath.Join(os.Getenv(binDirEnv), name) }

// program runs a command of ours, alone in $PATH, in an empty directory.
func program(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, bin(args[0]), args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv(binDirEnv), "TZ=UTC", "HOME=/root", "LC_ALL=C", "TMPDIR=" + cmd.Dir}
	return cmd
}

// golden is a case of a file in testdata.
type golden struct {
	script, stdout string
	status         int
}

func readGolden(t *testing.T, path string) (list []golden) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	for block := range strings.SplitSeq(string(text), "%%\n") {
		var g golden
		for line := range strings.Lines(block) {
			switch {
			case strings.HasPrefix(line, "#") && g.script == "":
			case strings.HasPrefix(line, "$ ") && g.script == "":
				g.script = strings.TrimSuffix(line[2:], "\n")
			case strings.HasPrefix(line, "> ") && g.stdout == "":
				g.script += "\n" + strings.TrimSuffix(line[2:], "\n")
			case strings.HasPrefix(line, "? "):
				_, err := fmt.Sscanf(line, "? %d", &g.status)
				require.NoError(t, err)
			default:
				g.stdout += line
			}
		}
		if s, ok := strings.CutSuffix(g.stdout, "\\\n"); ok {
			g.stdout = s
		}
		if g.script != "" {
			list = append(list, g)
		}
	}
	return list
}

func TestGolden(t *testing.T) {
	for _, file := range []string{"testdata/shell.txt", "testdata/commands.txt"} {
		list := readGolden(t, file)
		require.Greater(t, len(list), 100)
		for i, g := range list {
			t.Run(fmt.Sprintf("%s/%d", strings.TrimSuffix(filepath.Base(file), ".txt"), i), func(t *testing.T) {
				t.Parallel()
				cmd := program(t, "sh", "-c", g.script)
				var out, stderr bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &stderr
				cmd.Run()
				require.Equal(t, g.stdout, out.String(), "script: %s\nstderr: %s", g.script, stderr.String())
				require.Equal(t, g.status, cmd.ProcessState.ExitCode(), "script: %s\nstderr: %s", g.script, stderr.String())
			})
		}
	}
}

func TestStreamsAndStatus(t *testing.T) {
	cmd := program(t, "sh", "-c", "echo out; echo err >&2; exit 7")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	require.Error(t, cmd.Run())
	require.Equal(t, "out\n", out.String())
	require.Equal(t, "err\n", stderr.String())
	require.Equal(t, 7, cmd.ProcessState.ExitCode())
}

func TestNames(t *testing.T) {
	names := Names()
	require.True(t, slices.IsSorted(names))
	require.Len(t, slices.Compact(slices.Clone(names)), len(names))
	for _, n := range strings.Fields("sh true false echo cat ls cp mv rm mkdir rmdir ln chmod chown touch head tail wc sort uniq tr cut tee grep sed awk find xargs env printenv pwd id whoami uname hostname date sleep seq yes dd df du free ps kill mount umount stat readlink realpath basename dirname mktemp sha256sum sha1sum md5sum base64 hexdump od tar gzip gunzip nproc uptime dmesg stty tty test [ printf expr time timeout which nohup sync nc ip less more poweroff reboot halt") {
		require.Contains(t, names, n)
	}
	links := Links()
	require.Len(t, links, len(names))
}

// Every command refuses an option that does not exist, and none panics.
func TestUnknownOption(t *testing.T) {
	ignore := strings.Fields("[ echo false test true whoami yes expr printf awk")
	for _, n := range Names() {
		if slices.Contains(ignore, n) {
			continue
		}
		t.Run(n, func(t *testing.T) {
			t.Parallel()
			cmd := program(t, n, "--no-such-option-exists")
			out, err := cmd.CombinedOutput()
			require.Error(t, err, "%s", out)
			require.NotContains(t, string(out), "goroutine")
			require.NotEmpty(t, out)
		})
	}
}

func TestUnwritableOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close()
	for _, args := range [][]string{{"echo", "x"}, {"seq", "10"}, {"cat", "/etc/passwd"}, {"ls", "/"}, {"sh", "-c", "echo x"}} {
		cmd := program(t, args...)
		cmd.Stdout = full
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		require.Error(t, cmd.Run(), args)
		require.NotEmpty(t, stderr.String(), args)
	}
}

func TestClosedPipeEndsWithSIGPIPE(t *testing.T) {
	for _, args := range [][]string{{"yes"}, {"seq", "100000000"}, {"cat", "/dev/zero"}} {
		cmd := program(t, args...)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		io.ReadFull(out, make([]byte, 1000))
		out.Close()
		cmd.Wait()
		ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
		require.True(t, ws.Signaled() && ws.Signal() == syscall.SIGPIPE, "%v: %v", args, cmd.ProcessState)
	}
}

func TestSha256Sum_Stream(t *testing.T) {
	// Streamed, because a child's peak begins with the size of its parent.
	h := sha256.New()
	cmd := program(t, "sha256sum")
	cmd.Stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), 256<<20), h)
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, hex.EncodeToString(h.Sum(nil))+"  -\n", string(out))
	rss := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	require.Less(t, rss, int64(160<<10), "memory must not grow with the input (KiB)")
}

func TestFree(t *testing.T) {
	out, err := program(t, "free", "-m").Output()
	require.NoError(t, err)
	meminfo, err := os.ReadFile("/proc/meminfo")
	require.NoError(t, err)
	var label string
	var total int64
	_, err = fmt.Sscan(strings.Split(string(out), "\n")[1], &label, &total)
	require.NoError(t, err)
	require.Equal(t, "Mem:", label)
	require.Equal(t, procNumber(string(meminfo), "MemTotal")>>10, total)
}

func TestNproc(t *testing.T) {
	out, err := program(t, "nproc").Output()
	require.NoError(t, err)
	host, err := exec.Command("/usr/bin/nproc").Output()
	require.NoError(t, err)
	require.Equal(t, string(host), string(out))
}

func TestTimeout(t *testing.T) {
	start := time.Now()
	cmd := program(t, "timeout", "0.2", "sh", "-c", "sleep 20; echo late")
	out, err := cmd.Output()
	require.Error(t, err)
	require.Equal(t, 124, cmd.ProcessState.ExitCode())
	require.Empty(t, out)
	require.Less(t, time.Since(start), 10*time.Second)
}

// The last command of -c takes over the process: a signal meant for it arrives.
func TestShell_LastCommandReplacesShell(t *testing.T) {
	cmd := program(t, "sh", "-c", "echo $$; exec sleep 30")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line := make([]byte, 32)
	n, _ := out.Read(line)
	require.Equal(t, fmt.Sprint(cmd.Process.Pid), strings.TrimSpace(string(line[:n])))
	require.Eventually(t, func() bool {
		p, err := readProcess(cmd.Process.Pid)
		return err == nil && strings.HasPrefix(p.args, "sleep")
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	cmd.Wait()
	require.Equal(t, syscall.SIGTERM, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
}

func TestShell_ScriptFileAndStdin(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "s")
	require.NoError(t, os.WriteFile(script, []byte("#!"+bin("sh")+"\necho \"$0 $# $1\"\nread x\necho \"<$x>\"\n"), 0o755))
	cmd := program(t, "sh", script, "a b", "c")
	cmd.Stdin = strings.NewReader("input\n")
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, script+" 2 a b\n<input>\n", string(out))

	// A script on standard input shares it with its commands.
	cmd = program(t, "sh")
	cmd.Stdin = strings.NewReader("read x\nline\necho \"<$x>\"\nif true\nthen echo yes; fi\ncat <<E\ndoc\nE\nf() {\necho f\n}\nf; exit 4\necho no\n")
	out, err = cmd.Output()
	require.Error(t, err)
	require.Equal(t, 4, cmd.ProcessState.ExitCode())
	require.Equal(t, "<line>\nyes\ndoc\nf\n", string(out))

	// A file without "#!" that is text runs as a script.
	plain := filepath.Join(dir, "plain")
	require.NoError(t, os.WriteFile(plain, []byte("echo plain $1\n"), 0o755))
	out, err = program(t, "sh", "-c", plain+" x; echo $?").Output()
	require.NoError(t, err)
	require.Equal(t, "plain x\n0\n", string(out))
}

func TestShell_SyntaxErrorRunsWhatPrecedes(t *testing.T) {
	cmd := program(t, "sh", "-c", "echo first\nif then\n")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.Error(t, err)
	require.Equal(t, "first\n", string(out))
	require.Equal(t, 2, cmd.ProcessState.ExitCode())
	require.Contains(t, stderr.String(), "syntax error")
}

func TestShell_LargePipelineAndHereDocument(t *testing.T) {
	big := strings.Repeat("0123456789abcdef\n", 20000)
	cmd := program(t, "sh")
	cmd.Stdin = strings.NewReader("cat <<E | cat | cat | wc -c\n" + big + "E\n")
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintln(len(big)), string(out))
}

// Signals: a trap runs during wait, and SIGINT is not seen by background jobs.
func TestShell_TrapDuringWait(t *testing.T) {
	cmd := program(t, "sh", "-c", `trap 'echo got; kill $p; exit 9' TERM; sleep 30 & p=$!; echo ready; wait`)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	buf := make([]byte, 64)
	n, _ := out.Read(buf)
	require.Equal(t, "ready\n", string(buf[:n]))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	rest, _ := io.ReadAll(out)
	cmd.Wait()
	require.Equal(t, "got\n", string(rest))
	require.Equal(t, 9, cmd.ProcessState.ExitCode())
}

func TestTar_StaysInside(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "in"), 0o755))
	cmd := program(t, "sh", "-c", `mkdir d; ln -s /tmp d/out; tar cf a.tar d; rm -r d; mkdir -p d2/x; echo evil > d2/x/f; tar cf b.tar d2; mkdir t; tar xf a.tar -C t; ls -l t/d/out | cut -c1`)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "l\n", string(out))
}

func FuzzTranslateRegex(f *testing.F) {
	for _, s := range []string{`a\{2,3\}`, `[]a]`, `[^]]*`, `\(a\|b\)*`, `*a`, `a**`, `[[:alpha:]-]`, `^$`, `a+?`, `{`, `\1`, `[`} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, expr string, extended bool) {
		compileRegex(expr, extended, false) // may refuse, must not panic
	})
}

func FuzzSedParse(f *testing.F) {
	for _, s := range []string{"s/a/b/g", "1,3{p;d}", "/x/,/y/s|a|\\U&|2", "y/abc/xyz/", ":a;N;ba", "a\\\ntext", "$!{h;G}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		if strings.ContainsAny(script, "w") {
			return // w creates files
		}
		p := sedParser{text: script, prog: &sedProgram{}}
		p.parse()
	})
}
