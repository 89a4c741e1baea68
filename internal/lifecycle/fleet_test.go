package lifecycle

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is a worker, seen by the driver.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	rest answer // its own state when it was new
	list answer // what it saw first
}

// answerTimeout is when a worker counts as hanging.
const answerTimeout = opTimeout + 30*time.Second

func newProcess(t testing.TB) *process {
	t.Helper()
	p := &process{cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), workerEnv+"=1")
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	p.in, p.out = in, bufio.NewReader(out)
	// What is opened once and for all is open after this.
	p.list = p.ask(request{op: op{Kind: opList}})
	require.Equal(t, rOK, p.list.Result, p.list.Detail)
	p.rest = p.ask(request{Look: true})
	require.Equal(t, rOK, p.rest.Result, p.rest.Detail)
	return p
}

// ask sends a request and waits for the answer; rGone if there is none.
func (p *process) ask(r request) answer {
	hang := time.AfterFunc(answerTimeout, func() {
		// Its goroutines say where it hangs.
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	})
	defer hang.Stop()
	line, err := json.Marshal(r)
	if err == nil {
		_, err = p.in.Write(append(line, '\n'))
	}
	if err == nil {
		line, err = p.out.ReadBytes('\n')
	}
	var a answer
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err != nil {
		return answer{Result: rGone, Detail: err.Error()}
	}
	return a
}

// kill is SIGKILL.
func (p *process) kill() error { return p.cmd.Process.Kill() }

// bury waits for the end of a worker that was killed.
func (p *process) bury() {
	p.in.Close()
	_ = p.cmd.Wait() // "signal: killed"
}

// quit ends a worker in order.
func (p *process) quit() error { return errors.Join(p.in.Close(), p.cmd.Wait()) }

// leaks says what a worker that uses nothing has more of than when it was new.
func (p *process) leaks() error {
	// The runtime's own, and the watch of a child, come and go.
	const slack = 2
	var now answer
	for range 100 {
		now = p.ask(request{Look: true})
		if now.Result == rOK && now.Files <= p.rest.Files+slack && now.Goroutines <= p.rest.Goroutines+slack {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("worker has %+v, and had %+v when it was new", now, p.rest)
}

// processes finds the processes that match.
func processes(match func(pid int, args []string) bool) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		panic(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(line) == 0 {
			continue // gone, or a zombie
		}
		if match(pid, strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// monitors are the monitors of a name below home; "" is any name.
func monitors(home, name string) []int {
	return processes(func(pid int, args []string) bool {
		if len(args) != 2 || args[0] != "sandpit-monitor" || name != "" && args[1] != name {
			return false
		}
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		return err == nil && slices.ContainsFunc(fds, func(fd string) bool {
			file, err := os.Readlink(fd)
			return err == nil && strings.HasPrefix(file, home+"/")
		})
	})
}

// killMonitor kills the monitor of a name, if there is one, and waits until the
// kernel has taken back what it held.
func killMonitor(home, name string) (string, error) {
	pids := monitors(home, name)
	if len(pids) == 0 {
		return rNone, nil
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return "", err
		}
	}
	for range 3000 {
		if !slices.ContainsFunc(pids, alive) {
			return rKilled, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("monitor %v of %s survives SIGKILL", pids, name)
}

// alive: some thread of the process may still hold its files. Its command line
// goes earlier, with its memory.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err == nil && (len(threads) > 1 || !strings.HasPrefix(state, "Z"))
}

// children are the processes that this process started and has not reaped, and
// theirs.
func children(t testing.TB, of int) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	var found []string
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// proc_pid_stat(5): pid (comm) state ppid …; comm may hold anything.
		_, after, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(after); len(f) > 1 && f[1] == strconv.Itoa(of) {
			found = append(found, strings.TrimSpace(string(stat)))
		}
	}
	return found
}
