package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/sandbox"
)

// reg is a driver's access to a register of blk-root.
func reg(ms int64, write bool, register, value, note string, queue int) sandbox.TraceEvent {
	return sandbox.TraceEvent{Time: ms * 1e6, Took: 1000, Event: "exit", Exit: "MMIO", Write: write, Size: 4, Address: "0xd0000000",
		Device: "blk-root", Register: register, Value: value, Note: note, Queue: queue}
}

func port(ms int64, device, register string, write bool, value string) sandbox.TraceEvent {
	return sandbox.TraceEvent{Time: ms * 1e6, Took: 1000, Event: "exit", Exit: "IO", Write: write, Size: 1, Address: "0x3f8",
		Device: device, Register: register, Value: value}
}

// bootOfADisk is a trace in small.
func bootOfADisk() []sandbox.TraceEvent {
	events := []sandbox.TraceEvent{
		{Time: 0, Took: 1_234_567, Event: "step", Text: "vCPUs: 1 × KVM_CREATE_VCPU"},
		port(1, "serial", "LCR", true, "0x83"),
		port(1, "serial", "THR", true, "0x1"), // the divisor
		port(1, "serial", "LCR", true, "0x3"),
	}
	for _, c := range "hi \x1b[31m\r\n" {
		events = append(events, port(2, "serial", "THR", true, fmt.Sprintf("%#x", c)))
	}
	return append(events,
		port(3, "i8042", "status", false, "0x15"), port(3, "i8042", "status", false, "0x15"), port(3, "i8042", "status", false, "0x15"),
		sandbox.TraceEvent{Time: 3e6, Event: "exit", Exit: "IO", Write: true, Address: "0x43", Value: "0x30", Note: "8254 timer"},
		reg(4, false, "MagicValue", "0x74726976", `"virt"`, 0), reg(4, false, "DeviceID", "0x2", "blk", 0), reg(4, false, "VendorID", "0x1", `"SPIT"`, 0),
		reg(5, true, "Status", "0x0", "reset", 0), reg(5, true, "Status", "0x1", "", 0), reg(5, true, "Status", "0x3", "", 0),
		reg(5, false, "DeviceFeatures", "0x1", "VERSION_1", 0), reg(5, false, "DeviceFeatures", "0x1", "FLUSH EVENT_IDX", 0),
		reg(5, true, "DriverFeatures", "0x1", "VERSION_1", 0), reg(6, true, "Status", "0xb", "", 0),
		reg(7, false, "QueueSizeMax", "0x100", "", 0), reg(7, true, "QueueSize", "0x80", "", 0),
		reg(7, true, "QueueDescLow", "0x1000", "", 0), reg(7, true, "QueueDescHigh", "0x1", "", 0),
		reg(7, true, "QueueDriverLow", "0x2000", "", 0), reg(7, true, "QueueDeviceLow", "0x3000", "", 0), reg(7, true, "QueueReady", "0x1", "", 0),
		reg(8, false, "Config", "0x1", "", 0), reg(8, false, "Config", "0x1", "", 0), reg(9, true, "Status", "0xf", "", 0),
		sandbox.TraceEvent{Time: 10e6, Event: "queue", Device: "blk-root", Chains: 2}, reg(12, true, "InterruptACK", "0x1", "used buffer", 0),
		sandbox.TraceEvent{Time: 80e6, Event: "queue", Device: "blk-root", Chains: 1},
		sandbox.TraceEvent{Time: 90e6, Took: 2e8, Event: "phase", Text: "root mounted"},
		sandbox.TraceEvent{Time: 91e6, Event: "needs-reset", Device: "blk-root", Text: "queue 0: head is beyond the descriptor table"},
		sandbox.TraceEvent{Time: 92e6, Event: "end", Text: "guest kernel panic: \x1b[2Jgone"},
	)
}

func tellStory(t *testing.T, f traceFlags, events []sandbox.TraceEvent) string {
	t.Helper()
	var in, out bytes.Buffer
	for _, e := range events {
		require.NoError(t, json.NewEncoder(&in).Encode(e))
	}
	require.NoError(t, f.tell(&out, &in))
	return out.String()
}

func TestHostStory(t *testing.T) {
	require.Equal(t, `
     0.000 ms  machine      vCPUs: 1 × KVM_CREATE_VCPU (1.23ms)
     1.000 ms  serial       writes LCR = 0x83
     1.000 ms  serial       writes THR = 0x1
     1.000 ms  serial       writes LCR = 0x3
     2.000 ms  serial       the guest says "hi \x1b[31m"
     3.000 ms  i8042        reads status = 0x15, 3 times
     3.000 ms  vCPU 0       writes port 0x43 = 0x30 (8254 timer), where nothing is
     4.000 ms  blk-root     a driver finds it: virtio blk, by its magic value, version and number
     6.000 ms  blk-root     offers VERSION_1 FLUSH EVENT_IDX
     6.000 ms  blk-root     the driver takes VERSION_1
     6.000 ms  blk-root     status: reset, ACKNOWLEDGE, DRIVER, FEATURES_OK: the driver knows what it has
     7.000 ms  blk-root     queue 0: 128 of at most 256 descriptors at 0x100001000, available ring at 0x2000, used ring at 0x3000
     8.000 ms  blk-root     configuration read in 2 pieces
     9.000 ms  blk-root     status: DRIVER_OK: the device serves
    10.000 ms  blk-root     queue 0: 2 chains used; 1 interrupt acknowledged, in 2ms
    80.000 ms  blk-root     queue 0: 1 chain used
    90.000 ms  boot         root mounted: 200ms
    91.000 ms  blk-root     needs-reset: queue 0: head is beyond the descriptor table
    92.000 ms  machine      end: guest kernel panic: \x1b[2Jgone

38 VM exits: blk-root 21, serial 13, i8042 3, IO 1
`, "\n"+tellStory(t, traceFlags{}, bootOfADisk()))
}

func TestHostStoryOfEveryExit(t *testing.T) {
	got := tellStory(t, traceFlags{all: true}, bootOfADisk())
	require.Contains(t, got, "     7.000 ms  blk-root     vCPU 0 writes QueueSize of queue 0 = 0x80 (1µs)\n")
	require.Contains(t, got, "     4.000 ms  blk-root     vCPU 0 reads DeviceID = 0x2 (blk) (1µs)\n")
	require.Contains(t, got, "    10.000 ms  blk-root     uses 2 chains of queue 0\n")
	require.Equal(t, len(bootOfADisk())+2, strings.Count(got, "\n"))
}

func TestHostTraceAsJSON(t *testing.T) {
	got := tellStory(t, traceFlags{json: true}, bootOfADisk())
	dec := json.NewDecoder(strings.NewReader(got))
	dec.DisallowUnknownFields()
	for _, want := range bootOfADisk() {
		var e sandbox.TraceEvent
		require.NoError(t, dec.Decode(&e))
		require.Equal(t, want, e)
	}
}

// Nothing that a guest can make of a trace reaches a terminal as it is, or
// makes the story grow without end.
func TestHostStoryOfAHostileGuest(t *testing.T) {
	var events []sandbox.TraceEvent
	for i := range 3000 {
		events = append(events,
			reg(int64(i), true, "QueueNotify", "0xffffffff", "", i*7919), reg(int64(i), true, "QueueReady", "0x1", "", i),
			reg(int64(i), true, "Status", fmt.Sprintf("%#x", i), "", 0), reg(int64(i), true, "DriverFeatures", "0x1", fmt.Sprint("bit-", i), 0),
			sandbox.TraceEvent{Time: int64(i), Event: "queue", Device: "blk-root", Queue: i, Chains: math.MaxInt32},
			port(int64(i), "serial", "THR", true, fmt.Sprintf("%#x", i%256)), port(int64(i), "serial", "THR", true, "nonsense"),
			sandbox.TraceEvent{Time: math.MaxInt64, Event: "\x1b]0;", Device: "\x1b[2J", Text: "\x9b"},
			sandbox.TraceEvent{Time: math.MinInt64, Event: "exit", Exit: "\x1b[2J"})
	}
	out := tellStory(t, traceFlags{}, events)
	require.NotContains(t, out, "\x1b")
	require.NotContains(t, out, "\u009b")
}

func TestHostTraceThatIsNone(t *testing.T) {
	var f traceFlags
	require.ErrorContains(t, f.tell(io.Discard, strings.NewReader("{\"time_ns\":1}\nnot JSON")), "reading the trace")
	require.NoError(t, f.tell(io.Discard, strings.NewReader("")))
}

func FuzzStory(f *testing.F) {
	for i, e := range bootOfADisk() { // short ones: the engine shortens what it finds
		line, err := json.Marshal(e)
		require.NoError(f, err)
		f.Add(line, i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, in []byte, all bool) {
		var out bytes.Buffer
		_ = (&traceFlags{all: all}).tell(&out, bytes.NewReader(in))
		require.NotContains(t, out.String(), "\x1b")
	})
}

// The whole of it: a real machine, and the command's own output and status.
func TestTrace(t *testing.T) {
	kvmtest.NeedKVM(t)
	h := imageHome{t.TempDir()}
	file := filepath.Join(t.TempDir(), "trace.jsonl")
	c := h.run(t, "trace", "--json", "-o", file, "--", "sh", "-c", "echo out; exit 3")
	require.Equal(t, 3, c.status)
	require.Equal(t, "out\n", c.stdout)
	trace, err := os.Open(file)
	require.NoError(t, err)
	defer trace.Close()
	seen := map[string]int{}
	for dec := json.NewDecoder(trace); dec.More(); {
		var e sandbox.TraceEvent
		require.NoError(t, dec.Decode(&e))
		seen[e.Event]++
		if e.Register == "Status" && e.Write && e.Value == "0xf" {
			seen["live "+e.Device]++
		}
	}
	require.Equal(t, 1, seen["end"])
	require.GreaterOrEqual(t, seen["step"], 8)
	require.Greater(t, seen["exit"], 50)
	require.Positive(t, seen["queue"])
	require.GreaterOrEqual(t, seen["phase"], 10)
	for _, device := range []string{"vsock", "rng", "balloon", "blk-upper", "pmem-root"} {
		require.Equal(t, 1, seen["live "+device], device)
	}

	c = h.run(t, "trace", "--", "echo", "hello")
	require.Equal(t, 0, c.status)
	require.Contains(t, c.stderr, "hello\n")
	for _, want := range []string{
		"machine      virtual machine: KVM_CREATE_VM", "vsock        a driver finds it: virtio vsock",
		"pmem-root    status: DRIVER_OK: the device serves", "boot         root mounted, agent ready: ", " VM exits: ",
	} {
		require.Contains(t, c.stdout, want)
	}
}
