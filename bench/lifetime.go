package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// stages are the parts of a sandbox's life, in the order they were met in, with
// a time of each run.
type stages struct {
	names []string
	times map[string][]time.Duration
}

func (s *stages) add(name string, d time.Duration) {
	if s.times == nil {
		s.times = map[string][]time.Duration{}
	}
	if !slices.Contains(s.names, name) {
		s.names = append(s.names, name)
	}
	s.times[name] = append(s.times[name], d)
}

// print prints the stages; those of the guest lie within others.
func (s *stages) print(w io.Writer, total string) error {
	all := median(s.times[total])
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, n := range s.names {
		d := median(s.times[n])
		fmt.Fprintf(t, "%s\t%s\t%.0f %%\t  %s\t\n", ms(d), ms(quantile(s.times[n], 1)), 100*float64(d)/float64(all), n)
	}
	return t.Flush()
}

// The sums.
const (
	untilOutput = "all: from Create to the first output"
	untilGone   = "all: from Stop until nothing is left"
)

// lifetime measures a sandbox from Create to its first output, and its stop.
func (b *bed) lifetime(w io.Writer) error {
	var up, down stages
	for i := range b.runs + 1 {
		into := [2]*stages{&up, &down}
		if i == 0 { // a warm-up
			into = [2]*stages{{}, {}}
		}
		if err := live(fmt.Sprintf("lifetime-%d", i), into[0], into[1]); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "from Create to the first output (echo), %d runs, medians and the most; the guest's phases, by its own clock, lie within:\n", b.runs)
	if err := up.print(w, untilOutput); err != nil {
		return err
	}
	fmt.Fprintln(w, "a stop, while a command runs that ends by SIGTERM:")
	return down.print(w, untilGone)
}

// live is one life.
func live(name string, up, down *stages) (err error) {
	ctx := context.Background()
	begin := time.Now()
	sb, err := sandbox.Create(ctx, name, sandbox.Config{})
	if err != nil {
		return err
	}
	created := time.Now()
	defer func() { err = errors.Join(err, sb.RemovePersisted(ctx)) }()
	var first firstByte
	cmd := sb.Command(ctx, "echo", "hello")
	cmd.Stdout = &first
	if err := cmd.Start(); err != nil {
		return err
	}
	started := time.Now()
	if err := cmd.Wait(); err != nil {
		return err
	}
	ended := time.Now()

	boot := sb.Boot()
	told := created.Sub(begin)
	for _, p := range boot.Phases {
		up.add(p.Name, p.Duration)
		if !strings.HasPrefix(p.Name, "guest: ") {
			told -= p.Duration
		}
	}
	up.add("state written, creator told", told)
	up.add("command started", started.Sub(created))
	up.add("its first output", max(first.at().Sub(started), 0))
	up.add(untilOutput, max(first.at().Sub(begin), started.Sub(begin)))
	up.add("the command's end known, after its first output", ended.Sub(first.at()))
	return stop(ctx, sb, down)
}

// stop stops a sandbox with a command in it.
func stop(ctx context.Context, sb *sandbox.Sandbox, down *stages) error {
	sleeper := sb.Command(ctx, "sleep", "1000")
	if err := sleeper.Start(); err != nil {
		return err
	}
	var (
		commandEnded time.Time
		commandErr   error
		waiting      sync.WaitGroup
	)
	begin := time.Now()
	waiting.Go(func() {
		commandErr = sleeper.Wait()
		commandEnded = time.Now()
	})
	if err := sb.Stop(ctx); err != nil {
		return err
	}
	asked := time.Now()
	status, err := sb.Wait(ctx)
	if err != nil {
		return err
	}
	told := time.Now()
	// The sandbox has ended: this waits for its process alone.
	if _, err := sb.StopAndWait(ctx); err != nil {
		return err
	}
	gone := time.Now()
	waiting.Wait()
	var exit *sandbox.ExitError
	if !errors.As(commandErr, &exit) || status.Reason != "stopped" {
		return fmt.Errorf("the stop was none: %v (%s), and the command's end %w", status.Reason, status.Detail, commandErr)
	}
	h, err := sandbox.Get(ctx, sb.Name())
	if err != nil {
		return err
	}
	off := h.UpdatedAt() // when the monitor wrote it down, right after the machine's end
	down.add("asked", asked.Sub(begin))
	down.add("processes ended, and their callers know", commandEnded.Sub(asked))
	down.add("written back, unmounted, powered off", off.Sub(commandEnded))
	down.add("last state written, creator told", told.Sub(off))
	down.add("monitor's process gone", gone.Sub(told))
	down.add(untilGone, gone.Sub(begin))
	return nil
}

// firstByte is a writer that keeps the time of its first Write.
type firstByte struct {
	mu   sync.Mutex
	when time.Time
}

func (f *firstByte) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.when.IsZero() {
		f.when = time.Now()
	}
	return len(p), nil
}

func (f *firstByte) at() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.when
}
