package virtio

import (
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
)

// Console device, virtio 1.2 §5.3: one port, no control queues.

// consoleGuestConfig is the kernel option that the guest's driver needs.
const consoleGuestConfig = "CONFIG_VIRTIO_CONSOLE"

const (
	consoleFeatureSize = 1 << 0 // §5.3.3

	consoleReceive  = 0 // queue: host to guest, §5.3.2
	consoleTransmit = 1 // queue: guest to host

	consoleQueueSize = 64

	// Caps of what the host holds (T82). The buffers exist once per console.
	consoleBuffer = 64 << 10
	// ConsoleRate is the output in bytes per second that is let through, after
	// a burst of one second's worth.
	ConsoleRate = 4 << 20
)

// ConsoleOptions are a console's optional settings.
type ConsoleOptions struct {
	Cols, Rows uint16 // initial size; zero is unknown
	Rate       int    // output bytes per second; zero is ConsoleRate
}

// Console is a virtio console with one port.
//
// Nothing is lost and nothing grows: if out is slow, or the guest writes more
// than the rate allows, the guest waits; if the guest does not read, in is not
// read. Neither a stuck in nor a stuck out delays a reset or Close.
//
// An in that fails or panics has ended. An out that does loses what it was given.
//
// Output is passed on as it is, escape sequences included: whoever shows it on a
// terminal answers for that.
type Console struct {
	in  io.Reader
	out io.Writer

	fromHost *boundedBuffer // in → receive queue
	toHost   *boundedBuffer // transmit queue → out

	workers Workers
	limit   throttle      // the transmit worker's; kept across resets
	start   sync.Once     // of the goroutines on the host's side
	done    chan struct{} // closed by Close
	close   sync.Once
	drained chan struct{} // closed by writeHost

	outErrors atomic.Uint64

	mu         sync.Mutex // guards what follows
	state      consoleState
	receive    *Queue // nil while inactive
	notifySize func()
}

// consoleState is what the guest can see.
type consoleState struct {
	Cols, Rows uint16
	Generation uint32
}

// NewConsole returns a console that reads the guest's input from in and writes
// its output to out; either may be nil. Both are used by goroutines that start
// with the first activation and never touch guest memory. Close ends them once
// the Read or Write that they may be blocked in returns.
func NewConsole(in io.Reader, out io.Writer, opts ConsoleOptions) *Console {
	if opts.Rate == 0 {
		opts.Rate = ConsoleRate
	}
	c := &Console{
		in: in, out: out,
		fromHost: newBoundedBuffer(consoleBuffer),
		toHost:   newBoundedBuffer(consoleBuffer),
		limit:    throttle{rate: opts.Rate, burst: opts.Rate},
		done:     make(chan struct{}),
		drained:  make(chan struct{}),
	}
	c.state.Cols, c.state.Rows = opts.Cols, opts.Rows
	return c
}

// GuestConfigs lists the kernel options that the guest's driver needs.
func (c *Console) GuestConfigs() []string { return []string{consoleGuestConfig} }

// LowTraffic says that the queues are rarely used.
func (c *Console) LowTraffic() {}

// Type is TypeConsole.
func (c *Console) Type() uint32 { return TypeConsole }

// Features are the console's feature bits.
func (c *Console) Features() uint64 { return consoleFeatureSize }

// QueueSizes is the receive and the transmit queue.
func (c *Console) QueueSizes() []uint16 { return []uint16{consoleQueueSize, consoleQueueSize} }

// ReadConfig reads struct virtio_console_config, §5.3.4.
func (c *Console) ReadConfig(off uint32, p []byte) {
	var config [12]byte
	c.mu.Lock()
	binary.LittleEndian.PutUint16(config[0:], c.state.Cols)
	binary.LittleEndian.PutUint16(config[2:], c.state.Rows)
	c.mu.Unlock()
	binary.LittleEndian.PutUint32(config[4:], 1) // max_nr_ports
	ReadConfigBytes(config[:], off, p)
}

// WriteConfig does nothing: emergency writes are not offered.
func (c *Console) WriteConfig(uint32, []byte) {}

// ConfigGeneration counts the calls of Resize.
func (c *Console) ConfigGeneration() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Generation
}

// Resize tells the guest the terminal's size. It may be called at any time.
func (c *Console) Resize(cols, rows uint16) {
	c.mu.Lock()
	changed := c.state.Cols != cols || c.state.Rows != rows
	c.state.Cols, c.state.Rows = cols, rows
	notify := c.notifySize
	if changed {
		c.state.Generation++
	}
	c.mu.Unlock()
	if changed && notify != nil {
		notify()
	}
}

// Activate starts the workers.
func (c *Console) Activate(a Activation) error {
	c.start.Do(func() {
		go c.readHost()
		go c.writeHost()
	})
	receive, transmit := a.Queues[consoleReceive], a.Queues[consoleTransmit]
	c.mu.Lock()
	c.receive = receive
	if a.Features&consoleFeatureSize != 0 {
		c.notifySize = a.ConfigChanged
	}
	c.mu.Unlock()
	c.workers.Go(a, receive, func() error { return c.serveReceive(a, receive) })
	c.workers.Serve(a, transmit, func(ch *Chain) error { return c.transmit(transmit, ch) })
	return nil
}

// Reset ends the workers. Input that the guest did not take stays for the next
// driver.
func (c *Console) Reset() {
	c.mu.Lock()
	c.receive, c.notifySize = nil, nil
	c.mu.Unlock()
	c.workers.Stop()
}

// Close ends the goroutines on the host's side. The transport is closed first:
// output that it has taken is still written, as far as out takes it.
func (c *Console) Close() error {
	c.close.Do(func() {
		close(c.done)
		c.fromHost.close()
		c.toHost.close()
		c.start.Do(func() { close(c.drained) }) // there was no output
	})
	return nil
}

// Drained is closed once Close was called and all output was written to out.
func (c *Console) Drained() <-chan struct{} { return c.drained }

// serveReceive is the receive queue's worker. Its queue is kicked by the driver
// for new buffers, and woken by readHost for new input.
func (c *Console) serveReceive(a Activation, q *Queue) error {
	var ch Chain
	for {
		n := 0
		for n < q.Size() && c.fromHost.len() > 0 && !q.Stopped() {
			ok, err := q.Pop(&ch)
			if err != nil {
				return err
			}
			if !ok {
				if q.EnableNotifications() {
					continue
				}
				break
			}
			for ch.WritableLen() > 0 { // a buffer without room goes back empty
				k := c.fromHost.read(ch.Writable()[0])
				if k == 0 {
					break
				}
				ch.Wrote(k)
			}
			q.Push(ch.Head(), ch.Written())
			q.Notify()
			n++
		}
		if n > 0 && a.Activity != nil {
			a.Activity(q.Index(), n)
		}
		if n == q.Size() {
			continue // there may be more to do, and no kick to come
		}
		if err := q.Wait(); err != nil {
			return err
		}
	}
}

// transmit passes one buffer on. It waits for room, and for the rate (T82).
func (c *Console) transmit(q *Queue, ch *Chain) error {
	for ch.ReadableLen() > 0 {
		p := ch.Readable()[0]
		n := c.limit.take(len(p), q.Done())
		p = p[:n]
		for len(p) > 0 {
			k, ok := c.toHost.write(p, q.Done())
			if !ok {
				return ErrStopped // by a reset, or Close: nobody listens any more
			}
			p = p[k:]
		}
		if n == 0 {
			return ErrStopped
		}
		ch.Skip(n)
	}
	return nil
}

// readHost moves input into the buffer, until in ends.
func (c *Console) readHost() {
	if c.in == nil {
		return
	}
	p := make([]byte, 4096)
	for {
		n, err := guardIO(c.in.Read, p)
		for rest := p[:n]; len(rest) > 0; {
			k, ok := c.fromHost.write(rest, c.done)
			if !ok {
				return
			}
			rest = rest[k:]
			c.mu.Lock()
			q := c.receive
			c.mu.Unlock()
			if q != nil {
				q.Wake()
			}
		}
		if err != nil {
			return
		}
	}
}

// writeHost moves output out of the buffer, until Close. When out fails, the
// output is dropped and the guest is none the wiser.
func (c *Console) writeHost() {
	defer close(c.drained)
	p := make([]byte, 16<<10)
	for {
		n := c.toHost.readWait(p)
		if n == 0 {
			return
		}
		if c.out == nil {
			continue
		}
		if _, err := guardIO(c.out.Write, p[:n]); err != nil {
			c.outErrors.Add(1)
		}
	}
}

// guardIO is one read or write of the host's, whose panic is an error: the
// goroutine is ours, and nobody else would catch it (T45).
func guardIO(f func([]byte) (int, error), p []byte) (n int, err error) {
	if gerr := Guard(func() error { n, err = f(p); return nil }); gerr != nil {
		return 0, gerr
	}
	return n, err
}
