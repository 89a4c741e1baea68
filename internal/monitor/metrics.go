package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Metrics is what a sandbox uses: the answer to OpMetrics. What the host can
// measure, it does.
type Metrics struct {
	Uptime       time.Duration // since the machine's start; the time of measurement
	CPUTime      time.Duration // of the vCPUs' threads
	MemoryLimit  uint64        // bytes
	DiskRead     uint64        // bytes, of all block devices
	DiskWritten  uint64
	HostResident uint64        // bytes of the host's memory that this process has
	Guest        *GuestMetrics `json:",omitempty"` // nil: not asked for
}

// GuestMetrics is what the guest's agent says: possible, no more.
type GuestMetrics struct {
	MemoryTotal, MemoryAvailable uint64
	NetRx, NetTx                 uint64
	RootTotal, RootFree          uint64
	Processes                    uint32
	OOMKills                     uint64
}

// metricsTimeout is how long the agent may take.
const metricsTimeout = 2 * time.Second

// hostMetrics is the part that needs no guest.
func (m *monitor) hostMetrics() (*Metrics, error) {
	stats := m.machine.Stats()
	s := &Metrics{Uptime: stats.Uptime, CPUTime: stats.CPUTime, MemoryLimit: m.spec.Memory}
	for _, d := range m.blocks {
		disk := d.Stats()
		s.DiskRead += disk.ReadBytes
		s.DiskWritten += disk.WrittenBytes
	}
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return nil, err
	}
	s.HostResident, err = resident(statm)
	return s, err
}

// resident is the second field of /proc/self/statm, in bytes (proc(5)).
func resident(statm []byte) (uint64, error) {
	f := bytes.Fields(statm)
	if len(f) < 2 {
		return 0, errors.New("/proc/self/statm has no second field")
	}
	pages, err := strconv.ParseUint(string(f[1]), 10, 64)
	return pages * uint64(os.Getpagesize()), err
}

// replyMetrics answers an OpMetrics.
func (c *control) replyMetrics(conn net.Conn, hostOnly bool) {
	err := c.starting()
	var s *Metrics
	if err == nil {
		s, err = c.metrics(hostOnly)
	}
	switch {
	case errors.Is(err, errEnded):
		// No answer: the sandbox does not run.
	case err != nil:
		answer(conn, err)
	default:
		reply(conn, Answer{Metrics: s})
	}
}

// metrics measures. hostOnly leaves the guest alone.
func (c *control) metrics(hostOnly bool) (*Metrics, error) {
	var guest *GuestMetrics
	if !hostOnly {
		resp, err := c.askGuest()
		if err != nil {
			return nil, err
		}
		if guest, err = possible(resp, c.m.spec.Memory); err != nil {
			return nil, err
		}
	}
	s, err := c.m.hostMetrics()
	if err != nil {
		return nil, err
	}
	s.Guest = guest
	return s, nil
}

// askGuest asks the agent, one question at a time: a guest that does not
// answer holds up one goroutine, however often it is asked.
func (c *control) askGuest() (*proto.MetricsResponse, error) {
	ctx, cancel := context.WithTimeout(c.m.link.runCtx, metricsTimeout)
	defer cancel()
	answer := make(chan *proto.MetricsResponse, 1)
	select {
	case c.asking <- struct{}{}:
	case <-ctx.Done():
		return nil, c.silent(ctx.Err())
	}
	err := c.m.link.call(ctx, func() error {
		defer func() { <-c.asking }()
		resp, err := c.m.link.agent.Metrics(ctx, &proto.Empty{})
		answer <- resp
		return err
	})
	switch {
	case ctx.Err() != nil:
		return nil, c.silent(ctx.Err())
	case errors.Is(err, errEnded):
		return nil, err
	case errors.Is(err, ttrpc.ErrClosed):
		// An agent that is gone is that of a guest which is about to end.
		select {
		case <-c.m.link.machineEnded:
			return nil, errEnded
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, errEnded
			}
			return nil, errors.New("the guest's agent has closed its connection, and the guest goes on: it is broken")
		}
	case err != nil:
		return nil, fmt.Errorf("the guest's agent has no metrics: %s", shorten(err.Error()))
	}
	return <-answer, nil
}

func (c *control) silent(err error) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return errEnded
	}
	return fmt.Errorf("the guest's agent did not answer within %v: the guest is overloaded, or broken", metricsTimeout)
}

// possible turns an answer down that cannot be true.
func possible(r *proto.MetricsResponse, memory uint64) (*GuestMetrics, error) {
	g := &GuestMetrics{
		MemoryTotal: r.GetMemoryTotal(), MemoryAvailable: r.GetMemoryAvailable(),
		NetRx: r.GetNetRx(), NetTx: r.GetNetTx(),
		RootTotal: r.GetRootTotal(), RootFree: r.GetRootFree(),
		Processes: r.GetProcesses(), OOMKills: r.GetOomKills(),
	}
	switch {
	case g.MemoryTotal == 0 || g.MemoryTotal > memory:
		return nil, fmt.Errorf("the guest's agent says that it has %d bytes of memory: it was given %d", g.MemoryTotal, memory)
	case g.MemoryAvailable > g.MemoryTotal:
		return nil, fmt.Errorf("the guest's agent says that %d bytes of memory are available, of %d", g.MemoryAvailable, g.MemoryTotal)
	case g.RootFree > g.RootTotal:
		return nil, fmt.Errorf("the guest's agent says that its root has %d bytes free, of %d", g.RootFree, g.RootTotal)
	}
	return g, nil
}
