// Package virtiotest is the driver side of VIRTIO, for tests, benchmarks and
// fuzzing of devices: what net/http/httptest is to handlers.
//
// A Driver puts a device behind an MMIO transport on heap-backed guest memory,
// which the race detector sees, and talks to it as a guest would, byte for byte:
//
//	d := virtiotest.New(t, virtio.NewRNG(rand.Reader), virtiotest.Config{})
//	d.Start()                              // negotiate, set up rings, DRIVER_OK
//	reply := d.Ring(0).Do(nil, 32)         // one chain: nothing to read, 32 to write
//	require.EqualValues(t, 32, reply.Used) // what the device says it wrote
//
// It is a well-behaved driver only by default. Registers can be read and written
// at any offset and width, descriptors and ring indexes can be set to anything,
// and Run interprets a fuzz input as a program of such accesses.
//
// A Driver belongs to one goroutine, except for its IRQ.
package virtiotest
