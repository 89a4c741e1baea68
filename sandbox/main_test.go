package sandbox_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/sandbox"
)

// creatorEnv makes this test binary a creator: it creates the sandbox of that
// name, says so, and waits to be killed.
const creatorEnv = "SANDPIT_TEST_CREATOR"

func TestMain(m *testing.M) {
	if name := os.Getenv(creatorEnv); name != "" {
		if _, err := sandbox.Create(context.Background(), name, sandbox.Config{Memory: 256}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		select {}
	}
	if name := os.Getenv(detachedEnv); name != "" {
		createDetached(name)
	}
	flag.Parse()
	if args := os.Getenv(attacherEnv); args != "" {
		attacher(args)
	}
	stop, err := forExamples()
	if err != nil {
		fmt.Fprintln(os.Stderr, "the examples' sandbox:", err)
		os.Exit(1)
	}
	status := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "the examples' sandbox:", err)
		status = 1
	}
	os.Exit(status)
}

// vmExamples need a VM; those that need no more than one that runs have "demo".
const vmExamples = `^Example(_|$|Sandbox|Cmd|ExitError|StartError|StartReason|Rlimit|TTYSize|Handle|Status|Boot|Phase|ExitStatus|Patch$|` +
	`FS|File|CopyOptions|Metrics|AllMetrics|Log[ES]|LogOptions|AttachOptions|Terminal|ExecInfo)`

// forExamples gives the examples a home, and "demo" if any of them is going to
// run that needs it. In short mode those do not run. Tests have homes of their
// own.
func forExamples() (stop func() error, err error) {
	home, err := os.MkdirTemp("", "sandpit-examples-")
	if err != nil {
		return nil, err
	}
	os.Setenv("SANDPIT_HOME", home)
	clean := func() error { return os.RemoveAll(home) }
	if testing.Short() {
		return clean, flag.Set("test.skip", vmExamples)
	}
	run, err := regexp.Compile(flag.Lookup("test.run").Value.String())
	if err != nil || !run.MatchString("ExampleSandbox") && !strings.Contains(run.String(), "Example") || flag.Lookup("test.list").Value.String() != "" {
		return clean, err
	}
	sb, err := sandbox.Create(context.Background(), "demo", sandbox.Config{Memory: 128, CaptureOutput: true})
	if err != nil {
		return nil, errors.Join(err, clean())
	}
	return func() error {
		_, err := sb.StopAndWait(context.Background())
		return errors.Join(err, clean())
	}, nil
}

// sharedCache holds the decompressed kernel and images for all tests.
func sharedCache() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("sandpit-test-cache-%d", os.Getuid()))
}

// newHome gives the test a home of its own and checks, at its end, that no
// monitor of it is left.
func newHome(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("SANDPIT_HOME", "")
	t.Setenv("XDG_STATE_HOME", dir)
	t.Setenv("XDG_CACHE_HOME", sharedCache())
	return filepath.Join(dir, "sandpit", "sandboxes")
}

// needVM gives the test a home and a KVM that works.
func needVM(t testing.TB) (home string) {
	t.Helper()
	kvmtest.NeedKVM(t)
	home = newHome(t)
	fds := openFiles(t)
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return len(monitors(t)) == 0 }, 10*time.Second, 20*time.Millisecond,
			"monitors are left: %v", monitors(t))
		// The runtime's own descriptors (epoll and its like) are opened once.
		require.Eventually(t, func() bool { return openFiles(t) <= fds+4 }, 5*time.Second, 20*time.Millisecond,
			"descriptors leak: %d before, %d after", fds, openFiles(t))
	})
	return home
}

// openFiles counts this process's descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// monitors are the process IDs of the monitors below this process or orphaned
// by it.
func monitors(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command("ps", "-eo", "pid=,stat=,args=").Output()
	require.NoError(t, err)
	var pids []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) >= 3 && f[2] == "sandpit-monitor" && f[len(f)-1] != "demo" && !strings.HasPrefix(f[1], "Z") {
			pids = append(pids, f[0])
		}
	}
	return pids
}

// scaled is how much of a large test to run: all of it on good KVM, and where
// SANDPIT_TEST_FULL is set; a quarter in the emulated rig, where a boot takes
// seconds and a megabyte half a second.
func scaled(n int) int {
	if os.Getenv("KVMRIG") == "emulated" && os.Getenv("SANDPIT_TEST_FULL") == "" {
		return n / 4
	}
	return n
}

// deadline is a context that outlasts anything a test waits for.
func deadline(t testing.TB) context.Context {
	t.Helper()
	return deadlineOf(t, 10*time.Minute)
}

// deadlineOf is for tests whose failure must leave time to the others.
func deadlineOf(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// create makes a sandbox that the test's end stops.
func create(t testing.TB, name string, cfg sandbox.Config) *sandbox.Sandbox {
	t.Helper()
	sb, err := sandbox.Create(deadline(t), name, cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			tellAbout(t, name)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, sb.Kill(ctx))
	})
	return sb
}

// tellAbout logs what a failed test's sandbox is at: its guest's last words,
// where its monitor's threads spend their time, and the goroutines there. The
// monitor does not outlive it.
func tellAbout(t testing.TB, name string) {
	t.Helper()
	dir := filepath.Join(os.Getenv("XDG_STATE_HOME"), "sandpit", "sandboxes", name)
	for _, pid := range monitors(t) {
		args, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		if !strings.HasSuffix(strings.TrimRight(string(args), "\x00"), "\x00"+name) {
			continue
		}
		out, err := exec.Command("ps", "-Lo", "tid,stat,time,pcpu,wchan:24", "-p", pid).Output()
		t.Logf("threads of monitor %s (%v):\n%s", pid, err, out)
		// Twice, so that it shows whether the guest moves.
		for range 2 {
			out, err = exec.Command("sh", "-c", "cd /sys/kernel/debug/kvm && grep . exits mmio_exits io_exits halt_exits irq_exits irq_injections").Output()
			t.Logf("KVM's counters (%v):\n%s", err, out)
			time.Sleep(time.Second)
		}
		n, err := strconv.Atoi(pid)
		if err == nil {
			// Where the vCPUs are: in the log, which follows.
			t.Log("asked for its registers:", syscall.Kill(n, syscall.SIGUSR1))
			time.Sleep(2 * time.Second)
			err = syscall.Kill(n, syscall.SIGQUIT)
		}
		t.Log("asked for its goroutines:", err)
		for range 100 {
			if syscall.Kill(n, 0) != nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log*"))
	for _, path := range logs {
		data, err := os.ReadFile(path)
		if len(data) > 48<<10 {
			data = data[len(data)-48<<10:]
		}
		t.Logf("end of %s (%v):\n%s", filepath.Base(path), err, data)
	}
}
