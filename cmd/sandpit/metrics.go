package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// metricsFlags are those of the metrics command.
type metricsFlags struct {
	format   string
	watch    bool
	interval seconds
	listen   string
}

func newMetrics() *cobra.Command {
	f := metricsFlags{interval: seconds(time.Second)}
	cmd := &cobra.Command{
		Use:   "metrics [NAME…]",
		Short: "Show what running sandboxes use",
		Long: "Metrics shows what sandboxes use: all that run, or those that are named. CPU is in\n" +
			"percent of one CPU, as measured over 0.1 s, or the interval with --watch. With\n" +
			"--listen it serves the same to Prometheus, at /metrics, until it is interrupted.",
		Example: "  sandpit metrics\n  sandpit metrics -w --interval 5s build\n  sandpit metrics --format json | jq .memory_bytes\n" +
			"  sandpit metrics --listen 127.0.0.1:9464",
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			source := metricsSource(names)
			if f.listen != "" {
				return serveMetrics(cmd.Context(), f.listen, source)
			}
			if f.watch {
				return f.repeat(cmd.Context(), source)
			}
			all, err := source(cmd.Context())
			return errors.Join(f.print(all), err)
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.format, "format", "table", "`format`: table, or json: an object a line")
	fl.BoolVarP(&f.watch, "watch", "w", false, "show again and again, until interrupted")
	fl.Var(&f.interval, "interval", "how often to --watch")
	fl.StringVar(&f.listen, "listen", "", "serve Prometheus at this `address`, such as 127.0.0.1:9464; without a host, on this machine only")
	completeFormat(cmd, "table", "json")
	return cmd
}

func (f *metricsFlags) check(cmd *cobra.Command) error {
	switch {
	case f.format != "table" && f.format != "json":
		return fmt.Errorf("--format %q: want table or json", f.format)
	case time.Duration(f.interval) < sandbox.MetricsWindow:
		return fmt.Errorf("--interval %v: want at least %v", f.interval.String(), sandbox.MetricsWindow)
	case cmd.Flags().Changed("interval") && !f.watch:
		return errors.New("--interval: want --watch too")
	case f.listen != "" && (f.watch || cmd.Flags().Changed("format")):
		return errors.New("--listen: want neither --watch nor --format with it")
	}
	return nil
}

// metricsOf measures sandboxes. An error does not mean that none was.
type metricsOf func(context.Context) (map[string]sandbox.Metrics, error)

// metricsSource measures those that are named; none means all that run.
func metricsSource(names []string) metricsOf {
	if len(names) == 0 {
		return func(ctx context.Context) (map[string]sandbox.Metrics, error) {
			all, err := sandbox.AllMetrics(ctx)
			return all, failures(flatten(err)).orNil()
		}
	}
	return func(ctx context.Context) (map[string]sandbox.Metrics, error) {
		var mu sync.Mutex
		all := make(map[string]sandbox.Metrics)
		measure := withHandle(func(ctx context.Context, h *sandbox.Handle) error {
			m, err := h.Metrics(ctx)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				all[h.Name()] = m
			}
			return err
		})
		failed := inOrder(len(names), atOnce, func(i int) error { return measure(ctx, names[i]) }, func(int) {})
		return all, failed.orNil()
	}
}

// repeat shows them until ctx ends, with CPU times over the interval. What
// fails is said, and tried again.
func (f *metricsFlags) repeat(ctx context.Context, source metricsOf) error {
	tick := time.NewTicker(time.Duration(f.interval))
	defer tick.Stop()
	var last map[string]sandbox.Metrics
	for first := true; ; first = false {
		all, err := source(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for name, m := range all {
			if before, ok := last[name]; ok && m.Uptime > before.Uptime {
				m.CPUPercent = float32(100 * float64(m.CPUTime-before.CPUTime) / float64(m.Uptime-before.Uptime))
				all[name] = m
			}
		}
		last = all
		if f.format == "table" {
			switch {
			case isTerminal(os.Stdout):
				fmt.Print("\x1b[H\x1b[2J")
			case !first:
				fmt.Println()
			}
		}
		if err := f.print(all); err != nil {
			return err
		}
		if err != nil {
			report(os.Stderr, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (f *metricsFlags) print(all map[string]sandbox.Metrics) error {
	names := slices.Sorted(maps.Keys(all))
	if f.format == "table" {
		return metricsTable(names, all).print()
	}
	enc := json.NewEncoder(os.Stdout)
	for _, name := range names {
		if err := enc.Encode(namedMetrics{name, all[name]}); err != nil {
			return err
		}
	}
	return nil
}

// namedMetrics is a line of --format json.
type namedMetrics struct {
	Name string `json:"name"`
	sandbox.Metrics
}

func metricsTable(names []string, all map[string]sandbox.Metrics) *table {
	t := &table{header: strings.Fields("NAME CPU MEMORY LIMIT DISK-READ DISK-WRITTEN NET-IN NET-OUT PROCESSES UP"), flexible: 0}
	for _, name := range names {
		m := all[name]
		t.add(cell{text: name}, cell{text: fmt.Sprintf("%.1f%%", m.CPUPercent)},
			amount(m.MemoryBytes), amount(m.MemoryLimitBytes), amount(m.DiskReadBytes), amount(m.DiskWriteBytes),
			amount(m.NetRxBytes), amount(m.NetTxBytes), cell{text: fmt.Sprint(m.Processes)}, cell{text: m.Uptime.Round(time.Second).String()})
	}
	return t
}

func amount(n uint64) cell { return cell{text: size(int64(min(n, math.MaxInt64)))} }
