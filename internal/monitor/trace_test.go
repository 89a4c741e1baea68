package monitor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/vmm"
)

func exitEvent(n int) vmm.Event {
	return vmm.Event{
		Kind: vmm.EventExit, Time: time.Duration(n), Took: 5, CPU: 1,
		Exit:   &kvm.Exit{Kind: kvm.ExitMMIO, Write: true, Size: 4, Count: 1, Addr: 0xd0000070, Data: []byte{11, 0, 0, 0}},
		Device: "vsock", Offset: 0x70, Register: "Status", Note: "ACKNOWLEDGE DRIVER FEATURES_OK",
	}
}

func readTrace(t *testing.T, r io.Reader) []TraceEvent {
	t.Helper()
	var all []TraceEvent
	for s := bufio.NewScanner(r); s.Scan(); {
		var e TraceEvent
		d := json.NewDecoder(bytes.NewReader(s.Bytes()))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&e))
		all = append(all, e)
	}
	return all
}

func TestTrace(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	tr := newTracer(w, slog.New(slog.DiscardHandler))
	tr.hook()(vmm.Event{Kind: vmm.EventStep, Time: 1, Took: 2, Text: "vCPUs: 1"})
	tr.hook()(exitEvent(7))
	tr.hook()(vmm.Event{Kind: vmm.EventQueue, Device: "vsock", Queue: 1, Chains: 3})
	tr.booted(&Boot{Phases: []Phase{{"root mounted", 9}}})
	tr.end("reset")
	tr.hook()(exitEvent(8)) // nobody hears it
	got := readTrace(t, r)
	require.Len(t, got, 5)
	require.Equal(t, TraceEvent{Time: 1, Took: 2, Event: "step", Text: "vCPUs: 1"}, got[0])
	require.Equal(t, TraceEvent{
		Time: 7, Took: 5, Event: "exit", CPU: 1, Exit: "MMIO", Write: true, Address: "0xd0000070", Value: "0xb", Size: 4,
		Device: "vsock", Offset: 0x70, Register: "Status", Note: "ACKNOWLEDGE DRIVER FEATURES_OK",
	}, got[1])
	require.Equal(t, TraceEvent{Event: "queue", Device: "vsock", Queue: 1, Chains: 3}, got[2])
	require.Equal(t, "root mounted", got[3].Text)
	require.Equal(t, "reset", got[4].Text)
}

func TestTraceOfNobody(t *testing.T) {
	tr := newTracer(nil, nil)
	require.Nil(t, tr.hook(), "the machine does not even ask")
	tr.booted(&Boot{})
	tr.end("")
}

// A guest decides how many exits there are, and not how long the trace gets.
func TestTraceIsBounded(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "trace"))
	require.NoError(t, err)
	name := f.Name()
	tr := newTracer(f, slog.New(slog.DiscardHandler))
	tr.left = 10_000
	for n := range 1000 {
		tr.event(exitEvent(n))
	}
	tr.end("stopped")
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Less(t, len(data), 10_500)
	got := readTrace(t, bytes.NewReader(data))
	require.Equal(t, "cut", got[len(got)-2].Event)
	require.Equal(t, "end", got[len(got)-1].Event)
}

// A reader that is gone, or does not read, ends the trace and nothing else.
func TestTraceReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	tr := newTracer(w, slog.New(slog.DiscardHandler))
	require.NoError(t, r.Close())
	for n := range 10 {
		tr.event(exitEvent(n))
	}
	require.True(t, tr.over.Load())
	require.Nil(t, tr.file)
	tr.end("")
}
