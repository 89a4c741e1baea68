package sandbox_test

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// A trace is a line of JSON for each event. This one has two.
func ExampleTraceEvent() {
	trace := `{"time_ns":5000,"event":"exit","exit":"MMIO","write":true,"value":"0xf","device":"vsock","register":"Status"}
{"time_ns":9000,"event":"queue","device":"vsock","queue":1,"chains":2}`
	for dec := json.NewDecoder(strings.NewReader(trace)); ; {
		var e sandbox.TraceEvent
		if err := dec.Decode(&e); err == io.EOF {
			return
		} else if err != nil {
			fmt.Println(err)
			return
		}
		switch e.Event {
		case "exit":
			fmt.Println(e.Device, e.Register, e.Value)
		case "queue":
			fmt.Println(e.Device, "used", e.Chains, "chains of queue", e.Queue)
		}
	}
	// Output:
	// vsock Status 0xf
	// vsock used 2 chains of queue 1
}
