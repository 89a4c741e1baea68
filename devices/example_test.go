package devices_test

import (
	"fmt"
	"os"
	"time"

	"github.com/sandpit-vm/sandpit/devices"
)

type noInterrupt struct{}

func (noInterrupt) Trigger() error { return nil }

// A bus with a serial port; the guest's accesses are made by hand.
func Example() {
	ports := devices.NewBus()
	if err := ports.Map("serial", 0x3f8, 8, devices.NewSerial(os.Stdout, noInterrupt{})); err != nil {
		fmt.Println(err)
	}
	for _, c := range []byte("hello from the guest\n") {
		ports.Write(0x3f8, []byte{c}) // outb(c, 0x3f8)
	}
	p := make([]byte, 2)
	fmt.Println(ports.Read(0x3ff, p), p) // crosses the window's end
	name, off, _ := ports.Lookup(0x3fd)
	fmt.Println(name, off)
	// Output:
	// hello from the guest
	// false [255 255]
	// serial 5
}

func ExampleRTC() {
	rtc := devices.NewRTC(func() time.Time { return time.Date(2026, 11, 23, 14, 5, 6, 0, time.UTC) })
	p := make([]byte, 1)
	for _, register := range []byte{4, 2, 0} { // hours, minutes, seconds
		rtc.Write(0, []byte{register}) // outb(register, 0x70)
		rtc.Read(1, p)                 // inb(0x71)
		fmt.Printf("%02x ", p[0])
	}
	// Output: 14 05 06
}
