package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// family is one metric of Prometheus' text format, version 0.0.4.
type family struct {
	name, kind, help string
	value            func(sandbox.Metrics) float64
}

// families are in base units, and counters end in _total, as Prometheus wants
// them.
var families = []family{
	{"sandpit_cpu_seconds_total", "counter", "CPU time that the virtual CPUs used of the host's.", func(m sandbox.Metrics) float64 { return m.CPUTime.Seconds() }},
	{"sandpit_memory_bytes", "gauge", "Memory of the guest that is in use.", func(m sandbox.Metrics) float64 { return float64(m.MemoryBytes) }},
	{"sandpit_memory_available_bytes", "gauge", "Memory of the guest that is available.", func(m sandbox.Metrics) float64 { return float64(m.MemoryAvailableBytes) }},
	{"sandpit_memory_limit_bytes", "gauge", "Memory that the guest was given.", func(m sandbox.Metrics) float64 { return float64(m.MemoryLimitBytes) }},
	{"sandpit_host_memory_bytes", "gauge", "Memory of the host that the sandbox has.", func(m sandbox.Metrics) float64 { return float64(m.HostMemoryBytes) }},
	{"sandpit_disk_read_bytes_total", "counter", "Bytes that the guest read from its disks.", func(m sandbox.Metrics) float64 { return float64(m.DiskReadBytes) }},
	{"sandpit_disk_written_bytes_total", "counter", "Bytes that the guest wrote to its disks.", func(m sandbox.Metrics) float64 { return float64(m.DiskWriteBytes) }},
	{"sandpit_root_used_bytes", "gauge", "Space in use on the file system that takes the writes.", func(m sandbox.Metrics) float64 { return float64(m.RootUsedBytes) }},
	{"sandpit_root_free_bytes", "gauge", "Space free on the file system that takes the writes.", func(m sandbox.Metrics) float64 { return float64(m.RootFreeBytes) }},
	{"sandpit_network_receive_bytes_total", "counter", "Bytes that the guest received.", func(m sandbox.Metrics) float64 { return float64(m.NetRxBytes) }},
	{"sandpit_network_transmit_bytes_total", "counter", "Bytes that the guest sent.", func(m sandbox.Metrics) float64 { return float64(m.NetTxBytes) }},
	{"sandpit_processes", "gauge", "Processes of the guest.", func(m sandbox.Metrics) float64 { return float64(m.Processes) }},
	{"sandpit_oom_kills_total", "counter", "Processes that the guest's kernel killed for want of memory.", func(m sandbox.Metrics) float64 { return float64(m.OOMKills) }},
	{"sandpit_uptime_seconds", "gauge", "Time since the sandbox was started.", func(m sandbox.Metrics) float64 { return m.Uptime.Seconds() }},
}

// exposition is the page that Prometheus reads. failed is how many sandboxes
// could not be measured.
func exposition(all map[string]sandbox.Metrics, failed int) []byte {
	var b bytes.Buffer
	head := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	names := slices.Sorted(maps.Keys(all))
	for _, f := range families {
		head(f.name, f.kind, f.help)
		for _, name := range names {
			fmt.Fprintf(&b, "%s{sandbox=%s} %s\n", f.name, label(name), strconv.FormatFloat(f.value(all[name]), 'g', -1, 64))
		}
	}
	head("sandpit_sandboxes", "gauge", "Sandboxes that were measured.")
	fmt.Fprintf(&b, "sandpit_sandboxes %d\n", len(all))
	head("sandpit_sandboxes_failed", "gauge", "Sandboxes that could not be measured.")
	fmt.Fprintf(&b, "sandpit_sandboxes_failed %d\n", failed)
	return b.Bytes()
}

// label is a label's value, in quotes.
func label(v string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(v) + `"`
}

// Bounds of the server: whoever connects has little to say.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 30 * time.Second
	maxHeader      = 16 << 10
	scrapesAtOnce  = 4
	lastScrape     = 5 * time.Second // at the end
)

// serveMetrics serves until ctx ends.
func serveMetrics(ctx context.Context, address string, source metricsOf) error {
	address, err := listenAddress(address)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "serving http://%s/metrics\n", l.Addr())
	srv := &http.Server{
		Handler:           metricsHandler(source),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients do wrong
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		last, cancel := context.WithTimeout(context.Background(), lastScrape)
		defer cancel()
		stopped <- errors.Join(srv.Shutdown(last), srv.Close())
	})
	err = srv.Serve(l)
	if stop() {
		return err // not asked to
	}
	<-stopped
	return nil
}

// listenAddress completes an address. Without a host it is this machine's own:
// what sandboxes do is not everybody's business.
func listenAddress(address string) (string, error) {
	if _, err := strconv.ParseUint(address, 10, 16); err == nil {
		address = ":" + address
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("--listen %q: want ADDRESS:PORT, or a port of this machine's own address", address)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

func metricsHandler(source metricsOf) http.Handler {
	room := make(chan struct{}, scrapesAtOnce)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		default:
			http.Error(w, "too many requests at a time", http.StatusServiceUnavailable)
			return
		}
		all, err := source(r.Context())
		failed := len(flatten(err))
		if err != nil && r.Context().Err() == nil {
			report(os.Stderr, err)
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(exposition(all, failed)) // or the client is gone
	})
	return mux
}
