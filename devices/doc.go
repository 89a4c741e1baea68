// Package devices holds the bus that carries a guest's port and memory-mapped
// accesses, and the small devices of a PC that are not virtio: a serial port,
// a real-time clock, what is left of a keyboard controller, and an exit port.
//
// A device knows a writer, a clock, an interrupt or a callback. It knows
// neither KVM nor the bus nor its own address: a [Handler] sees offsets. All
// devices may be used from several vCPUs at once. None of them starts a
// goroutine, logs, or keeps state outside its one state struct.
//
// Guests are hostile: any offset, width and value is harmless, and no device
// allocates memory on a guest's behalf.
//
//	bus := devices.NewBus()
//	com1 := devices.NewSerial(console, irq4)
//	if err := bus.Map("serial", 0x3f8, 8, com1); err != nil { … }
//	…
//	// for each port exit of a vCPU; a string instruction has several elements:
//	for p := range exit.Elements() {
//		if exit.Write {
//			bus.Write(exit.Addr, p)
//		} else {
//			bus.Read(exit.Addr, p)
//		}
//	}
package devices
