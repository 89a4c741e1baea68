package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// measuringFor is how long a measurement waits for the one before.
const measuringFor = time.Second

// Metrics implements the call. Commands may have mounted what they like over
// /proc: the numbers are theirs then, and if what they mounted never answers,
// one thread waits for it, and all other calls fail.
func (a *Agent) Metrics(ctx context.Context, _ *proto.Empty) (_ *proto.MetricsResponse, err error) {
	defer a.recovered("metrics", &err)
	return a.measuring.do(ctx, measure)
}

// oneMeasurement holds a token while a measurement goes on.
type oneMeasurement chan struct{}

func (m oneMeasurement) do(ctx context.Context, measure func() (*proto.MetricsResponse, error)) (*proto.MetricsResponse, error) {
	patience := time.NewTimer(measuringFor)
	defer patience.Stop()
	select {
	case m <- struct{}{}:
		defer func() { <-m }()
	case <-patience.C:
		return nil, status.Error(codes.Unavailable, "a measurement is still going on: /proc or /sys does not answer")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r, err := measure()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return r, nil
}

func measure() (*proto.MetricsResponse, error) {
	r := &proto.MetricsResponse{UptimeNs: monotonic()}
	meminfo, err := readProc("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	stat, err := readProc("/proc/stat")
	if err != nil {
		return nil, err
	}
	vmstat, err := readProc("/proc/vmstat")
	if err != nil {
		return nil, err
	}
	r.MemoryTotal = kibibytes(meminfo, "MemTotal:")
	r.MemoryAvailable = kibibytes(meminfo, "MemAvailable:")
	r.CpuNs = busyTime(stat)
	r.OomKills = number(vmstat, "oom_kill")
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return nil, &Error{Op: "statfs", Path: "/", Err: err}
	}
	r.RootTotal, r.RootFree = fs.Blocks*uint64(fs.Frsize), fs.Bfree*uint64(fs.Frsize)
	if r.NetRx, r.NetTx, err = netTraffic("/sys/class/net"); err != nil {
		return nil, err
	}
	if r.Processes, err = countProcesses("/proc"); err != nil {
		return nil, err
	}
	return r, nil
}

// maxProc bounds what is read of a file of the kernel's.
const maxProc = 256 << 10

// readProc reads a file of the kernel's, and waits for nothing: what lies there
// may be a pipe of a command's.
func readProc(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &Error{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	data := make([]byte, 0, 4096)
	for len(data) < maxProc {
		if cap(data)-len(data) < 2048 {
			data = append(make([]byte, 0, 2*cap(data)), data...)
		}
		n, err := readFD(fd, data[len(data):cap(data)])
		if err != nil {
			return nil, &Error{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			break
		}
		data = data[:len(data)+n]
	}
	return data, nil
}

// number finds "name value" at the beginning of a line; 0 if it is not there.
func number(data []byte, name string) uint64 {
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) >= 2 && string(f[0]) == name {
			n, err := strconv.ParseUint(string(f[1]), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

func kibibytes(data []byte, name string) uint64 { return min(number(data, name), 1<<53) << 10 }

// userHz is the unit of /proc/stat, a hundredth of a second on every Linux of
// this architecture (USER_HZ, proc_stat(5)).
const userHz = 100

// busyTime is what all CPUs did but idling and waiting, in ns: the first line
// of /proc/stat, whose times for guests are part of the first two.
func busyTime(stat []byte) int64 {
	line, _, _ := bytes.Cut(stat, []byte{'\n'})
	f := bytes.Fields(line)
	if len(f) < 8 || string(f[0]) != "cpu" {
		return 0
	}
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		n, err := strconv.ParseUint(string(f[i]), 10, 48)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return int64(ticks * (1e9 / userHz))
}

// netTraffic sums up the interfaces that are devices: what a command makes of
// its own (a bridge, a tunnel) carries nothing that is not theirs too.
func netTraffic(class string) (rx, tx uint64, err error) {
	names, err := readNames(class)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return 0, 0, nil // a kernel without a network
		}
		return 0, 0, err
	}
	for _, name := range names {
		dir := class + "/" + name
		if unix.Access(dir+"/device", unix.F_OK) != nil {
			continue
		}
		rx += statistic(dir, "rx_bytes")
		tx += statistic(dir, "tx_bytes")
	}
	return rx, tx, nil
}

func statistic(dir, name string) uint64 {
	data, err := readProc(dir + "/statistics/" + name)
	if err != nil {
		return 0 // the interface is gone
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// kernelThreads is the process whose children are the kernel's own threads.
const kernelThreads = "2"

// countProcesses counts the processes of commands: neither PID 1, which is this
// one, nor the kernel's threads.
func countProcesses(proc string) (n uint32, err error) {
	names, err := readNames(proc)
	if err != nil {
		return 0, err
	}
	self := strconv.Itoa(os.Getpid())
	for _, pid := range names {
		if pid[0] < '0' || pid[0] > '9' || pid == self || isInit() && pid == kernelThreads {
			continue
		}
		stat, err := readProc(proc + "/" + pid + "/stat")
		if err != nil {
			continue // it has ended
		}
		// PID (name) state PPID; the name may hold anything.
		f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(f) < 2 || isInit() && string(f[1]) == kernelThreads {
			continue
		}
		n++
	}
	return n, nil
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, &Error{Op: "open", Path: dir, Err: err}
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, &Error{Op: "read", Path: dir, Err: err}
	}
	return names, nil
}
