package sandbox_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// volume is how much of a test that is large on purpose to run: all of it if
// SANDPIT_TEST_FULL is set, else what fits.
func volume(all, fits int) int {
	if os.Getenv("SANDPIT_TEST_FULL") != "" {
		return all
	}
	return fits
}

// A timeout ends one command with all that it started, whatever they do about
// SIGTERM, and no other command.
func testTimeoutAlone(t *testing.T, sb *sandbox.Sandbox) {
	ctx := deadline(t)
	other := sb.Shell(ctx, "read line; echo $line")
	in, err := other.StdinPipe()
	require.NoError(t, err)
	var out bytes.Buffer
	other.Stdout = &out
	require.NoError(t, other.Start())

	var kept bytes.Buffer
	cmd := sb.Shell(ctx, `trap "" TERM; echo before; for i in 1 2 3; do sh -c 'trap "" TERM; (sleep 4321 & sleep 4321) & sleep 4321' & done; sleep 4321`)
	cmd.Stdout, cmd.Timeout = &kept, 2*time.Second
	require.ErrorIs(t, cmd.Run(), sandbox.ErrTimeout)
	require.Equal(t, "before\n", kept.String())
	left, err := sb.Shell(ctx, "ps | grep -c '[s]leep 4321' || true").Output()
	require.NoError(t, err)
	require.Equal(t, "0\n", string(left))

	_, err = io.WriteString(in, "fine\n")
	require.NoError(t, err)
	require.NoError(t, other.Wait())
	require.Equal(t, "fine\n", out.String())
}

// One sandbox, much of everything.
func TestVolume(t *testing.T) {
	needVM(t)
	sb := create(t, "volume", sandbox.Config{Memory: 512})
	t.Run("a timeout is one command's", func(t *testing.T) { testTimeoutAlone(t, sb) })
	t.Run("where the vCPUs are", func(t *testing.T) { testRegisters(t, sb) })
	t.Run("at once", func(t *testing.T) { testAtOnce(t, sb, 200) })
	t.Run("stdin", func(t *testing.T) { testStdin(t, sb, int64(volume(1024, 16))<<20) })
	t.Run("many short commands", func(t *testing.T) { testManyShort(t, sb, volume(10_000, 200)) })
}

// testRegisters asks the monitor, by a signal, where the guest's vCPUs are: a
// failed test's report depends on the answer (tellAbout).
func testRegisters(t *testing.T, sb *sandbox.Sandbox) {
	pids := monitors(t)
	require.Len(t, pids, 1)
	pid, err := strconv.Atoi(pids[0])
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGUSR1))
	log := filepath.Join(os.Getenv("XDG_STATE_HOME"), "sandpit", "sandboxes", sb.Name(), "monitor.log")
	const wanted = 10 // samples of one vCPU
	require.Eventually(t, func() bool {
		data, err := os.ReadFile(log)
		require.NoError(t, err)
		return strings.Count(string(data), "where a vCPU is") == wanted
	}, 30*time.Second, 50*time.Millisecond)
	data, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Regexp(t, `msg="where a vCPU is" cpu=0 running=(true|false) rip=0x[0-9a-f]+ cs=0x[0-9a-f]+ rflags=0x`, string(data))
	require.NoError(t, sb.Command(deadline(t), "true").Run(), "the guest goes on")
}

// testAtOnce runs n commands that all run until each has been told its own
// word.
func testAtOnce(t *testing.T, sb *sandbox.Sandbox, n int) {
	ctx := deadlineOf(t, 4*time.Minute)
	cmds := make([]*sandbox.Cmd, n)
	ins := make([]io.WriteCloser, n)
	outs := make([]bytes.Buffer, n)
	var wg sync.WaitGroup
	for i := range n {
		cmds[i] = sb.Command(ctx, "cat")
		in, err := cmds[i].StdinPipe()
		require.NoError(t, err)
		ins[i], cmds[i].Stdout = in, &outs[i]
		wg.Go(func() {
			if err := cmds[i].Start(); err != nil {
				t.Errorf("command %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	require.False(t, t.Failed())
	running, err := sb.Execs(ctx)
	require.NoError(t, err)
	require.Len(t, running, n)
	for i := range n {
		wg.Go(func() {
			_, err := fmt.Fprintf(ins[i], "word %d", i)
			if err == nil {
				err = ins[i].Close()
			}
			if err == nil {
				err = cmds[i].Wait()
			}
			if err != nil || outs[i].String() != fmt.Sprintf("word %d", i) {
				t.Errorf("command %d: %q, %v", i, outs[i].String(), err)
			}
		})
	}
	wg.Wait()
}

// testStdin gives a command more than either side could keep.
func testStdin(t *testing.T, sb *sandbox.Sandbox, size int64) {
	// Not random: that would take longer than the transfer.
	block := make([]byte, 1<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range block {
		block[i] = byte(rng.Uint32())
	}
	sum := sha256.New()
	var blocks []io.Reader
	for range size >> 20 {
		blocks = append(blocks, bytes.NewReader(block))
	}
	cmd := sb.Command(deadline(t), "sha256sum")
	cmd.Stdin = io.TeeReader(io.MultiReader(blocks...), sum)
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, hex.EncodeToString(sum.Sum(nil)), strings.Fields(string(out))[0])
}

// usage is what a process holds. The memory is in KiB.
type usage struct{ memory, files, threads int }

// testManyShort runs n commands, ten at a time, and compares what all who have
// a part in it hold after a fifth of them and after the last.
func testManyShort(t *testing.T, sb *sandbox.Sandbox, n int) {
	ctx := deadlineOf(t, 4*time.Minute+time.Duration(n)*500*time.Millisecond)
	some := func(n int) {
		todo := make(chan int)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for i := range todo {
					out, err := sb.Shell(ctx, fmt.Sprintf("echo %d", i)).Output()
					if err != nil || string(out) != fmt.Sprintf("%d\n", i) {
						t.Errorf("command %d: %q, %v", i, out, err)
					}
				}
			})
		}
		for i := range n {
			todo <- i
		}
		close(todo)
		wg.Wait()
		require.False(t, t.Failed())
	}
	some(n / 5)
	us, monitor, agent := ourUsage(t), monitorUsage(t, sb.Name()), agentUsage(t, sb)
	some(n - n/5)
	// Files and goroutines are counted exactly, but for what the last command
	// has not given back yet; memory is as much as the collectors like.
	const slack, memory = 4, 8 << 10
	within := func(now, before usage) bool {
		return now.files <= before.files+slack && now.threads <= before.threads+slack && now.memory <= before.memory+memory
	}
	for what, side := range map[string]struct {
		before usage
		now    func() usage
	}{
		"this process": {us, func() usage { return ourUsage(t) }},
		"the monitor":  {monitor, func() usage { return monitorUsage(t, sb.Name()) }},
		"the agent":    {agent, func() usage { return agentUsage(t, sb) }},
	} {
		now := side.now()
		for range 20 {
			if within(now, side.before) {
				break
			}
			time.Sleep(250 * time.Millisecond)
			now = side.now()
		}
		t.Logf("%s: %+v, then %+v", what, side.before, now)
		require.True(t, within(now, side.before), "%s grew: %+v, then %+v", what, side.before, now)
	}
}

// ourUsage has goroutines for threads.
func ourUsage(t *testing.T) usage {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{int(m.HeapAlloc >> 10), openFiles(t), runtime.NumGoroutine()}
}

// guestRAM tells mappings of the guest's memory from the monitor's own.
const guestRAM = 200 << 10

func monitorUsage(t *testing.T, name string) usage {
	t.Helper()
	for _, pid := range monitors(t) {
		args, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		require.NoError(t, err)
		if !strings.Contains(string(args), "\x00"+name+"\x00") {
			continue
		}
		files, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
		require.NoError(t, err)
		threads, err := os.ReadDir(filepath.Join("/proc", pid, "task"))
		require.NoError(t, err)
		maps, err := os.ReadFile(filepath.Join("/proc", pid, "smaps"))
		require.NoError(t, err)
		return usage{ownMemory(t, string(maps)), len(files), len(threads)}
	}
	require.Fail(t, "no monitor", name)
	return usage{}
}

// ownMemory adds up what is resident of all mappings but the guest's memory, in
// KiB (proc_pid_smaps(5)).
func ownMemory(t *testing.T, smaps string) int {
	size, sum := 0, 0
	for lines := bufio.NewScanner(strings.NewReader(smaps)); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		if key != "Size" && key != "Rss" {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		require.NoError(t, err)
		if key == "Size" {
			size = n
		} else if size < guestRAM {
			sum += n
		}
	}
	return sum
}

// agentUsage looks at PID 1 of the guest.
func agentUsage(t *testing.T, sb *sandbox.Sandbox) usage {
	out, err := sb.Shell(deadline(t), `grep -E '^(VmRSS|Threads):' /proc/1/status; ls /proc/1/fd | wc -l`).Output()
	require.NoError(t, err)
	f := strings.Fields(string(out)) // VmRSS: N kB Threads: N N
	require.Len(t, f, 6, "%s", out)
	var n [3]int
	for i, at := range []int{1, 5, 4} {
		n[i], err = strconv.Atoi(f[at])
		require.NoError(t, err)
	}
	return usage{n[0], n[1], n[2]}
}
