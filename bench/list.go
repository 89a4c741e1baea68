package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// lister is a command whose processor time is measured.
type lister struct {
	name string
	args []string
	cpu  []time.Duration
	took []time.Duration
	err  error
}

// lists measures sandpit ls with many sandboxes, half of them running as far as
// anybody who looks can tell. It takes no machine: what ls reads are files.
func lists(w io.Writer, o options, home string) error {
	locks, err := manySandboxes(home, o.listed)
	defer func() {
		for _, l := range locks {
			l.Close()
		}
	}()
	if err != nil {
		return err
	}
	all := []*lister{
		{name: "sandpit ls", args: []string{o.sandpit, "ls"}},
		{name: "sandpit ls -q", args: []string{o.sandpit, "ls", "-q"}},
		{name: "sandpit ls --format json", args: []string{o.sandpit, "ls", "--format", "json"}},
		{name: "sandpit ls, without sandboxes", args: []string{o.sandpit, "ls"}},
		{name: "ps aux, this machine's processes", args: []string{"ps", "aux"}},
	}
	if err := allListed(home, o); err != nil {
		return err
	}
	for i := range 3*o.runs + 1 {
		for _, l := range all {
			if l.err != nil {
				continue
			}
			cmd := homeOf(home, exec.Command(l.args[0], l.args[1:]...))
			if l == all[3] {
				cmd = homeOf(home+"-empty", exec.Command(l.args[0], l.args[1:]...))
			}
			took, err := timed(cmd, 0)
			if err != nil {
				l.err = err
				continue
			}
			if i > 0 { // the first is a warm-up
				l.took = append(l.took, took)
				l.cpu = append(l.cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
			}
		}
	}
	fmt.Fprintf(w, "sandpit ls with %d sandboxes, half of them running, %d runs each, in turn; target: at most 100 ms of CPU:\n", o.listed, 3*o.runs)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  \tCPU, median\tmost\ttime, median")
	for _, l := range all {
		if l.err != nil {
			fmt.Fprintf(t, "  %s\tdid not run: %v\n", l.name, firstLine(l.err))
			continue
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", l.name, ms(median(l.cpu)), ms(quantile(l.cpu, 1)), ms(median(l.took)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return all[0].err
}

// allListed checks that ls sees what it is measured with.
func allListed(home string, o options) error {
	out, err := homeOf(home, exec.Command(o.sandpit, "ls", "-q", "--running")).Output()
	if err != nil {
		return err
	}
	if n, want := len(strings.Fields(string(out))), (o.listed+1)/2; n != want {
		return fmt.Errorf("sandpit ls --running shows %d sandboxes, not %d", n, want)
	}
	return nil
}

// manySandboxes writes down sandboxes as package internal/state lays them out.
// Those that seem to run have their locks held by the files returned.
func manySandboxes(home string, n int) (locks []*os.File, err error) {
	created := time.Now().Add(-time.Hour)
	for i := range n {
		dir := filepath.Join(home, "sandboxes", fmt.Sprintf("worker-%04d", i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return locks, err
		}
		cfg := sandbox.Config{
			CPUs: sandbox.DefaultCPUs, Memory: sandbox.DefaultMemory,
			Image: "registry.example/team/worker:1.2.3", UpperSize: 4096, Workdir: "/srv", Hostname: filepath.Base(dir), Shell: "/bin/sh",
			Env:    []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "JOB=nightly"},
			Cmd:    []string{"python3", "-m", "worker"},
			Labels: map[string]string{"job": "nightly", "part": fmt.Sprint(i)},
		}
		state := map[string]any{"status": sandbox.Running, "created": created, "updated": created.Add(time.Second)}
		if i%2 == 1 {
			state["status"], state["reason"], state["detail"] = sandbox.Stopped, "stopped", "asked to stop"
		}
		lock, err := os.Create(filepath.Join(dir, "lock"))
		if err != nil {
			return locks, err
		}
		locks = append(locks, lock)
		if i%2 == 0 {
			err = unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		}
		err = errors.Join(err,
			indented(filepath.Join(dir, "config.json"), map[string]any{"config": cfg}),
			indented(filepath.Join(dir, "state.json"), state))
		if err != nil {
			return locks, err
		}
	}
	return locks, nil
}

func indented(file string, v any) error {
	data, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o600)
}
