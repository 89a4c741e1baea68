package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

func TestMetrics(t *testing.T) {
	g := newGuest(t, "plain", &proto.SetupRequest{})
	m, err := g.client().Metrics(g.ctx(), &proto.Empty{})
	require.NoError(t, err)
	require.NotZero(t, m.GetMemoryTotal())
	require.NotZero(t, m.GetMemoryAvailable())
	require.Less(t, m.GetMemoryAvailable(), m.GetMemoryTotal())
	require.NotZero(t, m.GetRootTotal())
	require.LessOrEqual(t, m.GetRootFree(), m.GetRootTotal())
	require.Positive(t, m.GetUptimeNs())
	require.Positive(t, m.GetCpuNs())
	require.Zero(t, m.GetProcesses())
	var info unix.Sysinfo_t
	require.NoError(t, unix.Sysinfo(&info))
	require.EqualValues(t, info.Totalram*uint64(info.Unit), m.GetMemoryTotal())

	for range 3 {
		e, err := g.start(&proto.ExecStart{Args: []string{"sleep", "1000"}}, nil, nil)
		require.NoError(t, err)
		t.Cleanup(func() { _ = e })
	}
	m, err = g.client().Metrics(g.ctx(), &proto.Empty{})
	require.NoError(t, err)
	require.EqualValues(t, 3, m.GetProcesses())
}

// One measurement that never ends costs one thread; the others fail.
func TestMetrics_OneAtATime(t *testing.T) {
	one := make(oneMeasurement, 1)
	begun, end, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := one.do(t.Context(), func() (*proto.MetricsResponse, error) {
			close(begun)
			<-end
			return new(proto.MetricsResponse), nil
		})
		ended <- err
	}()
	<-begun
	never := func() (*proto.MetricsResponse, error) {
		t.Error("two measurements at a time")
		return nil, nil
	}
	_, err := one.do(t.Context(), never)
	require.ErrorContains(t, err, "still going on")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = one.do(ctx, never)
	require.ErrorIs(t, err, context.Canceled)
	close(end)
	require.NoError(t, <-ended)
	_, err = one.do(t.Context(), func() (*proto.MetricsResponse, error) { return nil, unix.EIO })
	require.ErrorContains(t, err, unix.EIO.Error())
	_, err = one.do(t.Context(), func() (*proto.MetricsResponse, error) { return new(proto.MetricsResponse), nil })
	require.NoError(t, err)
}

func TestBusyTime(t *testing.T) {
	require.Equal(t, int64((1+2+3+6+7)*10*time.Millisecond), busyTime([]byte("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3\n")))
	for _, bad := range []string{"", "cpu", "cpu 1 2 3 4 5 6", "cpu a b c d e f g h\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 99999999999999999999 0 0 0 0 0 0 0"} {
		require.Zero(t, busyTime([]byte(bad)), bad)
	}
}

func TestMeminfo(t *testing.T) {
	data := []byte("MemTotal:      2048 kB\nMemAvailable:     1 kB\nHuge: 18446744073709551615 kB\nBad: x kB\nShort:\n")
	require.EqualValues(t, 2<<20, kibibytes(data, "MemTotal:"))
	require.EqualValues(t, 1<<10, kibibytes(data, "MemAvailable:"))
	require.EqualValues(t, uint64(1)<<63, kibibytes(data, "Huge:"))
	for _, name := range []string{"Bad:", "Short:", "None:"} {
		require.Zero(t, kibibytes(data, name))
	}
}

func TestNetTraffic(t *testing.T) {
	class := t.TempDir()
	for _, f := range []string{"eth0/device", "eth0/statistics/rx_bytes=100\n", "eth0/statistics/tx_bytes=7\n", "lo/statistics/rx_bytes=5\n", "eth1/device", "eth1/statistics/rx_bytes=1\n"} {
		name, content, ok := strings.Cut(f, "=")
		path := filepath.Join(class, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if ok {
			require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		} else {
			require.NoError(t, os.Mkdir(path, 0o755))
		}
	}
	rx, tx, err := netTraffic(class)
	require.NoError(t, err)
	require.EqualValues(t, 101, rx)
	require.EqualValues(t, 7, tx)
	rx, tx, err = netTraffic(filepath.Join(class, "none"))
	require.NoError(t, err)
	require.Zero(t, rx+tx)
}

// What a command puts in the place of a file of the kernel's holds nothing up.
func TestReadProcOfAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meminfo")
	require.NoError(t, unix.Mkfifo(path, 0o644))
	data, err := readProc(path)
	require.NoError(t, err)
	require.Empty(t, data)
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer w.Close()
	_, err = readProc(path)
	require.ErrorIs(t, err, unix.EAGAIN)
	data, err = readProc("/dev/zero")
	require.NoError(t, err)
	require.LessOrEqual(t, len(data), 2*maxProc)
}
