package virtio_test

import (
	"io"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// probe is a device for tests of what devices are built on. Without serve it
// leaves its queues to the test; with it, queue 0 has a worker.
type probe struct {
	features uint64
	sizes    []uint16
	config   []byte
	serve    func(*virtio.Chain) error
	activate func(virtio.Activation) error

	act         virtio.Activation
	activations int
	resets      atomic.Int32
	workers     virtio.Workers
}

func (p *probe) Type() uint32         { return 0x1234 }
func (p *probe) Features() uint64     { return p.features }
func (p *probe) QueueSizes() []uint16 { return p.sizes }
func (p *probe) ReadConfig(off uint32, b []byte) {
	virtio.ReadConfigBytes(p.config, off, b)
}

func (p *probe) WriteConfig(off uint32, b []byte) {
	if int(off) < len(p.config) {
		copy(p.config[off:], b)
	}
}

func (p *probe) Activate(a virtio.Activation) error {
	p.act = a
	p.activations++
	if p.activate != nil {
		return p.activate(a)
	}
	if p.serve != nil {
		p.workers.Serve(a, a.Queues[0], p.serve)
	}
	return nil
}

func (p *probe) Reset() {
	p.workers.Stop()
	p.resets.Add(1)
	p.act = virtio.Activation{}
}

// echo writes what a chain's readable part says into its writable part.
func echo(c *virtio.Chain) error {
	buf := make([]byte, c.ReadableLen())
	if _, err := io.ReadFull(c, buf); err != nil && len(buf) > 0 {
		return err
	}
	c.Write(buf) // short is fine
	return nil
}

// manual starts a driver whose device leaves queue 0 to the test.
func manual(t testing.TB, cfg virtiotest.Config) (*virtiotest.Driver, *virtiotest.Ring, *virtio.Queue) {
	if cfg.QueueSize == 0 {
		cfg.QueueSize = 16
	}
	p := &probe{sizes: []uint16{256}}
	d := virtiotest.New(t, p, cfg)
	d.Start()
	return d, d.Ring(0), p.act.Queues[0]
}

// serving starts a driver whose device serves queue 0.
func serving(t testing.TB, serve func(*virtio.Chain) error, cfg virtiotest.Config) (*virtiotest.Driver, *probe) {
	p := &probe{sizes: []uint16{256}, serve: serve}
	d := virtiotest.New(t, p, cfg)
	d.Start()
	return d, p
}

func pop(t testing.TB, q *virtio.Queue) *virtio.Chain {
	t.Helper()
	var c virtio.Chain
	ok, err := q.Pop(&c)
	require.NoError(t, err)
	require.True(t, ok)
	return &c
}

// popError expects that the next chain breaks the queue, for good.
func popError(t testing.TB, q *virtio.Queue, want error) {
	t.Helper()
	var c virtio.Chain
	ok, err := q.Pop(&c)
	require.ErrorIs(t, err, want)
	require.False(t, ok)
	_, err = q.Pop(&c)
	require.ErrorIs(t, err, want)
}
