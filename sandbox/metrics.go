package sandbox

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/sandpit-vm/sandpit/internal/monitor"
)

// Metrics is what a sandbox uses, as measured at one moment: what the host can
// measure, by the host; the rest by the agent in the guest, whose numbers are
// no better than the guest is trusted. Counters begin with the machine, so a
// sandbox that is started again counts from zero.
type Metrics struct {
	// CPUPercent is CPU time over time, in percent of one CPU: a guest with two
	// may show 200. Metrics measures it over MetricsWindow, MetricsStream over
	// the interval.
	CPUPercent float32 `json:"cpu_percent"`
	// CPUTime is what the virtual CPUs used of the host's, with the work that
	// the host's kernel does for them.
	CPUTime time.Duration `json:"cpu_time_ns"`

	// MemoryBytes is the guest's memory that is in use and could not be had
	// without swapping: MemTotal less MemAvailable of its /proc/meminfo.
	// MemoryAvailableBytes is the rest, but for what the kernel keeps to itself;
	// MemoryLimitBytes is Config.Memory.
	MemoryBytes          uint64 `json:"memory_bytes"`
	MemoryAvailableBytes uint64 `json:"memory_available_bytes"`
	MemoryLimitBytes     uint64 `json:"memory_limit_bytes"`
	// HostMemoryBytes is the host's memory that the sandbox has: guest memory
	// that was touched and not given back since (what is free for two seconds
	// or so is, in pieces of 2 MiB), and its monitor. Files it shares with others (the
	// image's) count too.
	HostMemoryBytes uint64 `json:"host_memory_bytes"`

	// DiskReadBytes and DiskWriteBytes are what the guest transferred from and
	// to its disks. What its page cache has costs no transfer, and reads of an
	// image are not counted: it is mapped into the guest.
	DiskReadBytes  uint64 `json:"disk_read_bytes"`
	DiskWriteBytes uint64 `json:"disk_write_bytes"`
	// RootUsedBytes and RootFreeBytes are of the file system that takes the
	// writes (statfs(2)).
	RootUsedBytes uint64 `json:"root_used_bytes"`
	RootFreeBytes uint64 `json:"root_free_bytes"`

	// NetRxBytes and NetTxBytes are of the guest's network devices; 0 without.
	NetRxBytes uint64 `json:"net_rx_bytes"`
	NetTxBytes uint64 `json:"net_tx_bytes"`

	// Processes runs in the guest, its agent not counted; OOMKills were killed
	// by its kernel for want of memory.
	Processes int    `json:"processes"`
	OOMKills  uint64 `json:"oom_kills"`

	// Uptime is since the machine's start, Timestamp the host's time.
	Uptime    time.Duration `json:"uptime_ns"`
	Timestamp time.Time     `json:"timestamp"`
}

// Times of the metrics.
const (
	// MetricsWindow is how long CPUPercent is measured where nothing else is
	// said.
	MetricsWindow = 100 * time.Millisecond
	// MinMetricsInterval is the shortest of a MetricsStream.
	MinMetricsInterval = 10 * time.Millisecond
	// metricsTimeout is more than a monitor takes with a guest that is silent.
	metricsTimeout = 5 * time.Second
	// metricsAtOnce is how many sandboxes AllMetrics asks at a time.
	metricsAtOnce = 16
)

// asker asks a sandbox's monitor.
type asker func(context.Context, monitor.Call) (*monitor.Answer, error)

// Metrics measures what the sandbox uses, within MetricsWindow. ErrNotRunning;
// or an error that says that the guest's agent did not answer, or not the
// truth.
func (s *Sandbox) Metrics(ctx context.Context) (Metrics, error) {
	return metricsOnce(ctx, s.name, s.dialMonitor)
}

// Metrics is what [Sandbox.Metrics] says.
func (h *Handle) Metrics(ctx context.Context) (Metrics, error) {
	return metricsOnce(ctx, h.Name(), h.dialMonitor)
}

func metricsOnce(ctx context.Context, name string, ask asker) (Metrics, error) {
	before, err := sample(ctx, ask, true)
	if err == nil {
		err = sleep(ctx, MetricsWindow)
	}
	var after *monitor.Metrics
	if err == nil {
		after, err = sample(ctx, ask, false)
	}
	if err != nil {
		return Metrics{}, &Error{name, "metrics", err}
	}
	return newMetrics(before, after), nil
}

// MetricsStream measures again and again; the first measurement comes after
// one interval, of at least MinMetricsInterval. One that fails is an error, and
// the next comes nevertheless. The stream ends without an error when the
// sandbox does, and with one when ctx does.
func (s *Sandbox) MetricsStream(ctx context.Context, interval time.Duration) iter.Seq2[Metrics, error] {
	return func(yield func(Metrics, error) bool) {
		fail := func(err error) bool { return yield(Metrics{}, &Error{s.name, "metrics", err}) }
		if interval < MinMetricsInterval {
			bad := &ConfigError{}
			bad.add("interval", "%v: want at least %v", interval, MinMetricsInterval)
			yield(Metrics{}, bad)
			return
		}
		last, err := sample(ctx, s.dialMonitor, true)
		if err != nil {
			fail(err)
			return
		}
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				fail(ctx.Err())
				return
			case <-s.life.Ended():
				return
			case <-tick.C:
			}
			now, err := sample(ctx, s.dialMonitor, false)
			switch {
			case errors.Is(err, ErrNotRunning):
				return
			case ctx.Err() != nil:
				fail(ctx.Err())
				return
			case err != nil:
				if !fail(err) {
					return
				}
				continue
			}
			m := newMetrics(last, now)
			last = now
			if !yield(m, nil) {
				return
			}
		}
	}
}

// AllMetrics measures every sandbox that runs, many at the same time. One that
// fails does not hide the others: the error joins what went wrong.
func AllMetrics(ctx context.Context) (map[string]Metrics, error) {
	handles, err := List(ctx)
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		all  = make(map[string]Metrics)
		errs = []error{err}
		room = make(chan struct{}, metricsAtOnce)
	)
	for _, h := range handles {
		if st := h.Status(); st == Stopped || st == Crashed || st == Starting {
			continue
		}
		room <- struct{}{} // each is bounded by its timeouts
		wg.Go(func() {
			defer func() { <-room }()
			m, err := h.Metrics(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				all[h.Name()] = m
			case !errors.Is(err, ErrNotRunning): // ended since
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// sample is one measurement; hostOnly leaves out what the guest has to say.
func sample(ctx context.Context, ask asker, hostOnly bool) (*monitor.Metrics, error) {
	limited, cancel := context.WithTimeout(ctx, metricsTimeout)
	defer cancel()
	a, err := ask(limited, monitor.Call{Op: monitor.OpMetrics, HostOnly: hostOnly})
	switch {
	case err != nil && ctx.Err() == nil && limited.Err() != nil:
		return nil, fmt.Errorf("the monitor did not answer within %v", metricsTimeout)
	case err != nil:
		return nil, err
	case a.Metrics == nil || !hostOnly && a.Metrics.Guest == nil:
		return nil, errors.New("the monitor has no metrics: it is of another version of this program")
	}
	return a.Metrics, nil
}

func newMetrics(before, after *monitor.Metrics) Metrics {
	g := after.Guest
	m := Metrics{
		CPUTime:              after.CPUTime,
		MemoryBytes:          g.MemoryTotal - g.MemoryAvailable,
		MemoryAvailableBytes: g.MemoryAvailable,
		MemoryLimitBytes:     after.MemoryLimit,
		HostMemoryBytes:      after.HostResident,
		DiskReadBytes:        after.DiskRead,
		DiskWriteBytes:       after.DiskWritten,
		RootUsedBytes:        g.RootTotal - g.RootFree,
		RootFreeBytes:        g.RootFree,
		NetRxBytes:           g.NetRx,
		NetTxBytes:           g.NetTx,
		Processes:            int(g.Processes),
		OOMKills:             g.OOMKills,
		Uptime:               after.Uptime,
		Timestamp:            time.Now(),
	}
	if d := after.Uptime - before.Uptime; d > 0 {
		m.CPUPercent = float32(100 * float64(after.CPUTime-before.CPUTime) / float64(d))
	}
	return m
}

// sleep waits, or returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
