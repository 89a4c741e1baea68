package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// guestScript runs in every contender's guest, with the image's own tools. The
// programs have been read when a step begins; what they read has not.
const guestScript = `
export LC_ALL=C
step() {
	read -r _ || exit 1
	begin=$EPOCHREALTIME
	out=$("$2")
	end=$EPOCHREALTIME
	echo "$1 ${begin/./} ${end/./} $out"
}
nothing() { :; }
walk() { find /usr -xdev -printf '%s\n' | wc -l; }
files() { find /usr/lib/python3* -type f -print0; }
all() { files | xargs -0 cat >/dev/null; }
count() { files | xargs -0 cat | wc -c; }
for p in find xargs cat wc; do $p --version; done >/dev/null
echo ready
step nothing nothing
step walk walk
step walk-again walk
step read all
step read-again all
step count count
read -r _
`

// The steps of the script.
const (
	stepNothing   = "nothing" // what a step costs in itself
	stepWalk      = "walk"
	stepWalkAgain = "walk-again"
	stepRead      = "read"
	stepReadAgain = "read-again"
	stepCount     = "count" // not measured: that all have read the same
)

var steps = []string{stepNothing, stepWalk, stepWalkAgain, stepRead, stepReadAgain, stepCount}

// reader is one way to have the image's root file system in a guest.
type reader struct {
	name    string
	command func() *exec.Cmd
	err     error
	times   map[string][]time.Duration
	counted map[string]map[string][]int64
	results map[string]string
}

func newReader(name string, command func() *exec.Cmd) *reader {
	return &reader{name: name, command: command, times: map[string][]time.Duration{},
		counted: map[string]map[string][]int64{}, results: map[string]string{}}
}

// guest is a reader's guest at its script.
type guest struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr strings.Builder
}

// start boots the guest and waits until the script is ready.
func (r *reader) start() (*guest, error) {
	g := &guest{cmd: r.command()}
	g.cmd.Stderr = &g.stderr
	var err error
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	g.out = bufio.NewScanner(out)
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := g.line(); err != nil || line != "ready" {
		return nil, g.fail(fmt.Errorf("%q instead of ready: %w", line, err))
	}
	return g, nil
}

// line is the script's next.
func (g *guest) line() (string, error) {
	if !g.out.Scan() {
		return "", errors.Join(g.out.Err(), io.ErrUnexpectedEOF)
	}
	return g.out.Text(), nil
}

// step has the script do the next step, which is timed by the guest's clock and
// counted by the host.
func (g *guest) step(want string) (took time.Duration, counted counters, result string, err error) {
	before := readCounters()
	start := time.Now()
	if _, err := io.WriteString(g.in, "\n"); err != nil {
		return 0, nil, "", err
	}
	line, err := g.line()
	if err != nil {
		return 0, nil, "", err
	}
	outside := time.Since(start)
	counted = readCounters().since(before)
	f := strings.Fields(line)
	if len(f) < 3 || f[0] != want {
		return 0, nil, "", fmt.Errorf("%q instead of the step %s", line, want)
	}
	begin, err1 := strconv.ParseInt(f[1], 10, 64)
	end, err2 := strconv.ParseInt(f[2], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, nil, "", err
	}
	took = time.Duration(end-begin) * time.Microsecond
	if took > outside {
		return 0, nil, "", fmt.Errorf("step %s: the guest measured %v, the host %v", want, took, outside)
	}
	return took, counted, strings.Join(f[3:], " "), nil
}

// end has the script end, and the guest with it.
func (g *guest) end() error {
	_, _ = io.WriteString(g.in, "\n")
	_ = g.in.Close()
	for g.out.Scan() {
	}
	if err := g.cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(g.stderr.String()))
	}
	return nil
}

// fail ends a guest that did not do what it should.
func (g *guest) fail(err error) error {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
	return fmt.Errorf("%w: %s", err, strings.TrimSpace(g.stderr.String()))
}

// once is one boot and all steps.
func (r *reader) once(keep bool) error {
	g, err := r.start()
	if err != nil {
		return err
	}
	for _, s := range steps {
		took, counted, result, err := g.step(s)
		if err != nil {
			return g.fail(err)
		}
		if known, ok := r.results[s]; ok && known != result {
			return g.fail(fmt.Errorf("step %s: %s, and %s before", s, result, known))
		}
		r.results[s] = result
		if !keep {
			continue
		}
		r.times[s] = append(r.times[s], took)
		if r.counted[s] == nil {
			r.counted[s] = map[string][]int64{}
		}
		for name, n := range counted {
			r.counted[s][name] = append(r.counted[s][name], n)
		}
	}
	return g.end()
}
