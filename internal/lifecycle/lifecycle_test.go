package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/sandbox"
)

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) != "" {
		if err := work(); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The sequences to run: SANDPIT_LIFECYCLE_COUNT of them beginning with seed
// SANDPIT_LIFECYCLE_SEED, which alone means one. By default a handful, always
// the same, so that a change which fails has itself to blame; if
// SANDPIT_TEST_FULL is set 200, new each time.
func sequences(t *testing.T) (seed uint64, count int) {
	seed, count = 1000, 12
	if os.Getenv("KVMRIG") == "emulated" {
		count = 4
	}
	if os.Getenv("SANDPIT_TEST_FULL") != "" {
		seed, count = uint64(time.Now().UnixNano())/1000*1000, 200
	}
	var err error
	if s := os.Getenv("SANDPIT_LIFECYCLE_SEED"); s != "" {
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
		count = 1
	}
	if s := os.Getenv("SANDPIT_LIFECYCLE_COUNT"); s != "" {
		count, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	return seed, count
}

// TestSequences runs random sequences of what can be done to sandboxes, and
// holds every result against the model.
func TestSequences(t *testing.T) {
	kvmtest.NeedKVM(t)
	dir := t.TempDir()
	t.Setenv("SANDPIT_HOME", "")
	t.Setenv("XDG_STATE_HOME", dir)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(os.TempDir(), fmt.Sprintf("sandpit-test-cache-%d", os.Getuid())))
	d := &driver{home: filepath.Join(dir, "sandpit", "sandboxes"), bootTime: 3 * time.Second}

	files, goroutines := openFiles(t), runtime.NumGoroutine()
	for i := range d.workers {
		d.workers[i] = newProcess(t)
	}
	seed, count := sequences(t)
	for i := range count {
		n := seed + uint64(i)
		if !t.Run(strconv.FormatUint(n, 10), func(t *testing.T) { d.sequence(t, n) }) {
			break // what is left of it would make the next ones fail
		}
	}
	for _, w := range d.workers {
		if t.Failed() {
			_ = w.kill()
			w.bury()
			continue
		}
		require.NoError(t, w.quit())
	}
	if t.Failed() {
		for _, pid := range monitors(d.home, "") {
			p, err := os.FindProcess(pid)
			require.NoError(t, err)
			_ = p.Kill()
		}
		return
	}
	require.Eventually(t, func() bool { return openFiles(t) <= files+2 && runtime.NumGoroutine() <= goroutines+2 },
		5*time.Second, 20*time.Millisecond, "the driver leaks: %d files and %d goroutines, before %d and %d",
		openFiles(t), runtime.NumGoroutine(), files, goroutines)
}

// openFiles counts this process's descriptors.
func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// driver runs sequences.
type driver struct {
	home    string
	workers [slots]*process
	// bootTime is how long a boot takes here: the times of a plan are parts of
	// it.
	bootTime time.Duration

	truth  map[string]worlds
	trace  []string
	killed bool // something was, in this sequence
}

func (d *driver) sequence(t *testing.T, seed uint64) {
	d.truth, d.trace, d.killed = map[string]worlds{}, nil, false
	for _, n := range names {
		d.truth[n] = worlds{newWorld(): {}}
	}
	defer func() {
		if t.Failed() || os.Getenv("SANDPIT_LIFECYCLE_TRACE") != "" {
			t.Logf("again: SANDPIT_LIFECYCLE_SEED=%d go test ./internal/lifecycle -run TestSequences\n%s", seed, strings.Join(d.trace, "\n"))
		}
	}()
	for i, ops := range makePlan(seed) {
		d.note("step %d", i)
		d.step(t, ops)
	}
	d.note("the end")
	d.settle(t)
	d.judge(t)
	d.nothingLeft(t)
}

func (d *driver) note(format string, args ...any) {
	d.trace = append(d.trace, fmt.Sprintf(format, args...))
}

// step runs the operations of a step at once and holds the results against the
// model, name by name.
func (d *driver) step(t *testing.T, ops []op) {
	answers := make([]answer, len(ops))
	times := make([]time.Duration, len(ops))
	began := time.Now()
	var wg sync.WaitGroup
	for i, o := range ops {
		wg.Go(func() {
			time.Sleep(time.Duration(o.At * float64(d.bootTime)))
			from := time.Now()
			answers[i] = d.do(o)
			times[i] = time.Since(from)
		})
	}
	wg.Wait()
	var lists []op
	var listed []answer
	for i, o := range ops {
		if o.Kind == opKillWorker {
			d.workers[o.Slot].bury()
			d.workers[o.Slot] = newProcess(t)
			d.killed = true
			lists = append(lists, op{Kind: opList, Slot: o.Slot})
			listed = append(listed, d.workers[o.Slot].list)
		}
		d.killed = d.killed || o.Kind == opKillMonitor
		if o.Kind == opCreate && answers[i].Result == rOK {
			d.bootTime = times[i]
		}
		d.note("  %v -> %s (%v) %s", o, answers[i].Result, times[i].Round(time.Millisecond), answers[i].Detail)
	}
	for _, n := range names {
		d.observe(t, n, ops, answers)
		// A list sweeps, also that of a worker which takes a killed one's place.
		d.observe(t, n, lists, listed)
	}
	d.note("  %v: %s", time.Since(began).Round(time.Millisecond), d.believed())
}

// do has an operation done and returns the answer.
func (d *driver) do(o op) answer {
	switch o.Kind {
	case opKillWorker:
		if err := d.workers[o.Slot].kill(); err != nil {
			return answer{Result: "other: " + err.Error()}
		}
		return answer{Result: rOK}
	case opKillMonitor:
		result, err := killMonitor(d.home, o.Name)
		if err != nil {
			return answer{Result: "other: " + err.Error()}
		}
		return answer{Result: result}
	}
	return d.workers[o.Slot].ask(request{op: o, After: time.Duration(o.CancelAt * float64(d.bootTime))})
}

// observe holds what was said of a name against what can be.
func (d *driver) observe(t *testing.T, name string, ops []op, answers []answer) {
	var obs []observation
	for i, o := range ops {
		a := answers[i]
		if a.Result == rGone {
			// A worker ends when it is killed, and by nothing else.
			require.True(t, slices.ContainsFunc(ops, func(k op) bool { return k.Kind == opKillWorker && k.Slot == o.Slot }),
				"worker %d ended, or gave no answer in %v: %s", o.Slot, answerTimeout, a.Detail)
		}
		switch {
		case o.Kind == opList && a.Result == rOK:
			status, ok := a.Statuses[name]
			if !ok {
				status = rNotFound
			}
			for n := range a.Statuses {
				require.Contains(t, names, n, "%v", o)
			}
			obs = append(obs, observation{o, status})
		case o.Kind == opKillWorker, o.Kind == opList, o.Name == name:
			obs = append(obs, observation{o, a.Result})
		}
	}
	if len(obs) == 0 {
		return
	}
	from := d.truth[name]
	d.truth[name] = explain(from, obs)
	if len(d.truth[name]) == 0 {
		var said []string
		for _, o := range obs {
			said = append(said, fmt.Sprintf("%v -> %s", o.op, o.result))
		}
		require.Fail(t, "impossible", "%s was: %v\nand then, in whatever order:\n%s", name, from, strings.Join(said, "\n"))
	}
}

func (d *driver) believed() string {
	var all []string
	for _, n := range names {
		all = append(all, fmt.Sprintf("%s: %v", n, d.truth[n]))
	}
	return strings.Join(all, "; ")
}

// settleTime bounds how long a sandbox that nobody touches may take to become
// what it will be; stopTime is longer than a stop takes.
const (
	settleTime = 60 * time.Second
	stopTime   = 15 * time.Second
)

// settle waits until what happens by itself has happened, and every name is
// what it will stay.
func (d *driver) settle(t *testing.T) {
	for _, n := range names {
		began := time.Now()
		for {
			have := len(monitors(d.home, n))
			h, err := sandbox.Get(t.Context(), n)
			status := rNotFound
			if err == nil {
				status = string(h.Status())
			} else if classify(err) != rNotFound {
				require.NoError(t, err)
			}
			from := d.truth[n]
			d.truth[n] = explain(from, []observation{{op{Kind: opStatus, Slot: nobody, Name: n}, status}})
			require.NotEmpty(t, d.truth[n], "%s was %v, and its status is %s", n, from, status)
			settled := d.truth[n].closure().only(func(w world) bool {
				return w.settled() && w.alive() == (have == 1) && slices.Contains(w.statuses(), status)
			})
			sure := d.truth[n].all(world.settled) || have == 0 || time.Since(began) > stopTime
			if len(settled) > 0 && sure {
				d.truth[n] = settled
				d.note("  settled after %v: %s is %s: %v", time.Since(began).Round(time.Millisecond), n, status, settled)
				break
			}
			require.Less(t, time.Since(began), settleTime, "%s, of which there are %d monitors, is %s and should be %v",
				n, have, status, d.truth[n])
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// judge looks at everything from a process that had no part in it, and then
// removes it.
func (d *driver) judge(t *testing.T) {
	// The judge takes the place of a worker, which waits meanwhile.
	const slot = 0
	worker := d.workers[slot]
	d.workers[slot] = newProcess(t)
	for _, n := range names {
		judged := worlds{}
		for w := range d.truth[n] {
			w.held[slot], w.own[slot], w.command[slot] = 0, false, 0
			judged[w] = struct{}{}
		}
		d.truth[n] = judged
	}
	look := []op{{Kind: opList, Slot: slot}}
	for _, n := range names {
		look = append(look, op{Kind: opStatus, Slot: slot, Name: n}, op{Kind: opExec, Slot: slot, Name: n})
	}
	for _, n := range names {
		look = append(look, op{Kind: opStop, Slot: slot, Name: n}, op{Kind: opStatus, Slot: slot, Name: n},
			op{Kind: opRemove, Slot: slot, Name: n}, op{Kind: opStatus, Slot: slot, Name: n})
	}
	for _, o := range append(look, op{Kind: opList, Slot: slot}) {
		d.step(t, []op{o})
	}
	for _, n := range names {
		require.True(t, d.truth[n].all(func(w world) bool { return w.phase == absent }), "%s is %v", n, d.truth[n])
	}
	require.NoError(t, d.workers[slot].leaks())
	require.NoError(t, d.workers[slot].quit())
	d.workers[slot] = worker
}

// nothingLeft checks that the sequence left no process, no file, and nothing in
// the workers' hands.
func (d *driver) nothingLeft(t *testing.T) {
	for slot, w := range d.workers {
		for _, n := range names {
			for _, k := range []kind{opRelease, opClose} {
				d.note("  worker %d lets go of %s: %v", slot, n, w.ask(request{op: op{Kind: k, Slot: slot, Name: n, Held: k == opClose}}))
			}
		}
		require.NoError(t, w.leaks(), "worker %d", slot)
	}
	require.Eventually(t, func() bool { return len(monitors(d.home, "")) == 0 }, 10*time.Second, 20*time.Millisecond, "monitors are left")
	for slot, w := range d.workers {
		require.Eventually(t, func() bool { return len(children(t, w.cmd.Process.Pid)) == 0 }, 5*time.Second, 20*time.Millisecond,
			"worker %d has not reaped: %v", slot, children(t, w.cmd.Process.Pid))
	}
	entries, err := os.ReadDir(d.home)
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	for _, e := range entries {
		// What was being filled or emptied when its process was killed is swept
		// when it is old enough.
		hidden := strings.HasPrefix(e.Name(), ".new-") || strings.HasPrefix(e.Name(), ".gone-")
		require.True(t, hidden && d.killed, "%s is left", e.Name())
		require.NoError(t, os.RemoveAll(filepath.Join(d.home, e.Name())))
	}
}
