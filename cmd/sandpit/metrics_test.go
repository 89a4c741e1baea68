package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func TestHostMetricsFlags(t *testing.T) {
	h := imageHome{t.TempDir()}
	for args, want := range map[string]string{
		"--format xml":              "want table or json",
		"-w --interval 1ms":         "want at least 100ms",
		"--interval 5s":             "want --watch too",
		"--listen 1 -w":             "want neither",
		"--listen nonsense":         "want ADDRESS:PORT",
		"--listen 127.0.0.1:999999": "999999",
		"nobody":                    "no sandbox of this name",
	} {
		r := h.run(t, append([]string{"metrics"}, strings.Fields(args)...)...)
		require.Equal(t, exitFailure, r.status, args)
		require.Contains(t, r.stderr, want, args)
	}
	r := h.run(t, "metrics")
	require.Equal(t, result{"NAME   CPU   MEMORY   LIMIT   DISK-READ   DISK-WRITTEN   NET-IN   NET-OUT   PROCESSES   UP\n", "", 0}, r)
	require.Equal(t, result{}, h.run(t, "metrics", "--format", "json"))
	h.put(t, prepared{name: "done", status: sandbox.Stopped})
	require.Equal(t, result{}, h.run(t, "metrics", "--format", "json"), "only what runs")
	r = h.run(t, "metrics", "done")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "not running")
}

func TestListenAddress(t *testing.T) {
	for in, want := range map[string]string{
		"9464": "127.0.0.1:9464", ":9464": "127.0.0.1:9464", "0.0.0.0:1": "0.0.0.0:1", "[::]:1": "[::]:1", "localhost:0": "localhost:0",
	} {
		got, err := listenAddress(in)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{"", "host", "1:2:3", "70000"} {
		_, err := listenAddress(bad)
		require.Error(t, err, bad)
	}
}

// series are the samples of a page, by name and labels.
type series map[string]float64

var (
	nameRule   = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	sampleRule = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"\})? (\S+)$`)
)

// parseExposition is strict: a HELP and a TYPE before a family's samples, which
// are together; no family twice, no sample twice; counters end in _total, and
// nothing else does.
func parseExposition(page string) (series, error) {
	if !strings.HasSuffix(page, "\n") {
		return nil, errors.New("the last line has no end")
	}
	out, seen := series{}, map[string]bool{}
	family, kind, helped := "", "", ""
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			if len(f) < 4 || !nameRule.MatchString(f[2]) || seen[f[2]] {
				return nil, fmt.Errorf("bad HELP %q", line)
			}
			helped, family = f[2], ""
			seen[helped] = true
		case strings.HasPrefix(line, "# TYPE "):
			if len(f) != 4 || f[2] != helped || f[3] != "counter" && f[3] != "gauge" {
				return nil, fmt.Errorf("bad TYPE %q", line)
			}
			family, kind = f[2], f[3]
			if strings.HasSuffix(family, "_total") != (kind == "counter") {
				return nil, fmt.Errorf("%s is a %s", family, kind)
			}
		default:
			m := sampleRule.FindStringSubmatch(line)
			if m == nil || m[1] != family {
				return nil, fmt.Errorf("bad sample %q of %s", line, family)
			}
			v, err := strconv.ParseFloat(m[3], 64)
			if err != nil || v < 0 {
				return nil, fmt.Errorf("bad value %q", line)
			}
			if _, twice := out[m[1]+m[2]]; twice {
				return nil, fmt.Errorf("twice: %q", line)
			}
			out[m[1]+m[2]] = v
		}
	}
	return out, nil
}

func TestExposition(t *testing.T) {
	all := map[string]sandbox.Metrics{
		"a": {
			CPUTime: 1500 * time.Millisecond, MemoryBytes: 1 << 60, MemoryAvailableBytes: 2, MemoryLimitBytes: 3, HostMemoryBytes: 4,
			DiskReadBytes: 5, DiskWriteBytes: 6, RootUsedBytes: 7, RootFreeBytes: 8, NetRxBytes: 9, NetTxBytes: 10,
			Processes: 11, OOMKills: 12, Uptime: time.Hour,
		},
		"b\\\"\n": {},
	}
	s, err := parseExposition(string(exposition(all, 3)))
	require.NoError(t, err)
	require.Len(t, s, 2*len(families)+2)
	for name, want := range map[string]float64{
		"cpu_seconds_total": 1.5, "memory_bytes": 1 << 60, "memory_available_bytes": 2, "memory_limit_bytes": 3, "host_memory_bytes": 4,
		"disk_read_bytes_total": 5, "disk_written_bytes_total": 6, "root_used_bytes": 7, "root_free_bytes": 8,
		"network_receive_bytes_total": 9, "network_transmit_bytes_total": 10, "processes": 11, "oom_kills_total": 12, "uptime_seconds": 3600,
	} {
		require.Equal(t, want, s["sandpit_"+name+`{sandbox="a"}`], name)
		require.Contains(t, s, "sandpit_"+name+`{sandbox="b\\\"\n"}`)
	}
	require.Equal(t, 2.0, s["sandpit_sandboxes"])
	require.Equal(t, 3.0, s["sandpit_sandboxes_failed"])
	s, err = parseExposition(string(exposition(nil, 0)))
	require.NoError(t, err)
	require.Len(t, s, 2)
}

// The server answers GET /metrics and ends with its context, after the request
// that it is serving.
func TestServeMetrics(t *testing.T) {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := port.Addr().String()
	require.NoError(t, port.Close())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- serveMetrics(ctx, address, func(context.Context) (map[string]sandbox.Metrics, error) {
			select {
			case asked <- struct{}{}:
			default:
			}
			<-answer
			return map[string]sandbox.Metrics{"a": {}}, failures{errors.New("one of them\x1b"), errors.New("another")}
		})
	}()
	url := "http://" + address
	require.Eventually(t, func() bool {
		r, err := http.Get(url + "/")
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == http.StatusNotFound
	}, 10*time.Second, 5*time.Millisecond)
	r, err := http.Post(url+"/metrics", "text/plain", strings.NewReader("x"))
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, r.StatusCode)
	req, err := http.NewRequest("GET", url+"/metrics", nil)
	require.NoError(t, err)
	req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	if r, err := http.DefaultClient.Do(req); err == nil { // it may hang up before it has read all of it
		require.NoError(t, r.Body.Close())
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, r.StatusCode)
	}

	got := make(chan *http.Response, 1)
	go func() {
		r, err := http.Get(url + "/metrics")
		if err != nil {
			t.Error(err)
		}
		got <- r
	}()
	<-asked
	cancel()
	time.Sleep(20 * time.Millisecond)
	close(answer)
	r = <-got
	require.NotNil(t, r)
	defer r.Body.Close()
	page, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Equal(t, "text/plain; version=0.0.4; charset=utf-8", r.Header.Get("Content-Type"))
	s, err := parseExposition(string(page))
	require.NoError(t, err)
	require.Equal(t, 1.0, s["sandpit_sandboxes"])
	require.Equal(t, 2.0, s["sandpit_sandboxes_failed"])
	require.NoError(t, <-served)
	http.DefaultClient.CloseIdleConnections()
	_, err = http.Get(url + "/metrics")
	require.Error(t, err)
}

// More scrapes at a time than there is room for are turned away.
func TestScrapesAtOnce(t *testing.T) {
	release, asked := make(chan struct{}), make(chan struct{}, 100)
	h := metricsHandler(func(context.Context) (map[string]sandbox.Metrics, error) {
		asked <- struct{}{}
		<-release
		return nil, nil
	})
	codes := make(chan int, scrapesAtOnce+1)
	scrape := func() {
		w := &recorder{header: http.Header{}, code: 200}
		r, err := http.NewRequest("GET", "/metrics", nil)
		if err != nil {
			t.Error(err)
		}
		h.ServeHTTP(w, r)
		codes <- w.code
	}
	for range scrapesAtOnce {
		go scrape()
		<-asked
	}
	scrape()
	require.Equal(t, http.StatusServiceUnavailable, <-codes)
	close(release)
	for range scrapesAtOnce {
		require.Equal(t, 200, <-codes)
	}
}

type recorder struct {
	header http.Header
	code   int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }
func (r *recorder) WriteHeader(code int)        { r.code = code }
