package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// These examples need KVM, and "demo" that runs (see example_vm_test.go).

// Metrics of one sandbox, once and again and again.
func ExampleMetrics() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	m, err := sb.Metrics(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.MemoryBytes > 0, m.MemoryBytes < m.MemoryLimitBytes, m.Uptime > 0)

	n := 0
	for m, err := range sb.MetricsStream(ctx, 20*time.Millisecond) {
		if err != nil {
			fmt.Println(err)
			return
		}
		if n++; n == 3 {
			fmt.Println("at", m.Timestamp.Before(time.Now()), m.CPUPercent >= 0)
			break
		}
	}
	// Output:
	// true true true
	// at true true
}

// All that runs at this moment.
func ExampleAllMetrics() {
	all, err := sandbox.AllMetrics(context.Background())
	if err != nil {
		fmt.Println(err) // of some; the others are there
	}
	for name, m := range all {
		fmt.Println(name, m.MemoryLimitBytes>>20, "MiB")
	}
	// Output: demo 128 MiB
}

// A sandbox that captures what its commands write, and its log afterwards.
func ExampleLogOptions() {
	ctx := context.Background()
	sb, err := sandbox.Create(ctx, "logged", sandbox.Config{Memory: 128, CaptureOutput: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = sb.Command(ctx, "sh", "-c", "for i in 1 2 3; do echo line $i; done; echo done >&2").Output()
	if err != nil {
		fmt.Println(err)
	}
	if _, err := sb.StopAndWait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	last := sandbox.LogOptions{Sources: []sandbox.LogSource{sandbox.LogStdout}, Tail: 2}
	for e, err := range sb.Logs(ctx, last) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s %q\n", e.Source, e.Data)
	}
	fmt.Println(sb.RemovePersisted(ctx))
	// Output:
	// stdout "line 2\n"
	// stdout "line 3\n"
	// <nil>
}

// LogEntry: following the console for a while. The guest wrote it: %q keeps it
// from the terminal.
func ExampleLogEntry() {
	h, err := sandbox.Get(context.Background(), "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	follow := sandbox.LogOptions{Sources: []sandbox.LogSource{sandbox.LogConsole}, Tail: -1, Follow: true}
	for e, err := range h.Logs(ctx, follow) {
		if err != nil {
			fmt.Println(errors.Is(err, context.DeadlineExceeded))
			return
		}
		fmt.Printf("%s %q\n", e.Time.Format(time.TimeOnly), e.Data)
	}
	// Output: true
}

func ExampleLogSource() {
	for _, s := range []sandbox.LogSource{sandbox.LogConsole, sandbox.LogStdout, sandbox.LogStderr, sandbox.LogNotice} {
		fmt.Println(s)
	}
	// Output:
	// console
	// stdout
	// stderr
	// notice
}
