package virtio_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// The "device MUST" and "MUST NOT" lines of virtio 1.2's chapter 2 that no test
// named after a threat covers already.
func TestSpec_Chapter2(t *testing.T) {
	t.Run("2.1.2 no buffer is consumed before DRIVER_OK", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8}, serve: echo}, vt.Config{})
		require.True(t, d.Negotiate(d.Offered()))
		r := d.SetupQueue(0, 8)
		r.Add(vt.Buf{Addr: d.Put([]byte("early")), Len: 5})
		r.Kick()
		signal(t, d.MMIO.KickFD(0)) // KVM does not know about the status
		time.Sleep(10 * time.Millisecond)
		require.Zero(t, r.DeviceUsedIdx())
		require.Zero(t, d.IRQ.Count())
		d.DriverOK()
		r.Wait() // and no second kick is needed
	})
	t.Run("2.1.2 DEVICE_NEEDS_RESET comes with a configuration change", func(t *testing.T) {
		d, p := serving(t, echo, vt.Config{})
		p.act.NeedsReset(virtio.ErrPanic)
		require.True(t, d.NeedsReset())
		require.Equal(t, 1, d.IRQ.Count())
		require.EqualValues(t, virtio.InterruptConfig, d.Load32(vt.InterruptStatus))
	})
	t.Run("2.2.2 what was agreed once is agreed again", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8}, features: 7}, vt.Config{})
		for f := range uint64(8) {
			for range 2 {
				require.True(t, d.Negotiate(virtio.FeatureVersion1|f))
			}
		}
	})
	t.Run("2.4.1 status is 0 after a reset, from any state", func(t *testing.T) {
		for status := range uint32(16) {
			d := vt.New(t, &probe{sizes: []uint16{8}}, vt.Config{MemSize: 4096})
			reach(d, status)
			d.Store32(vt.Status, 0)
			require.Zero(t, d.Status())
		}
	})
	t.Run("2.4.1 nothing is sent after a reset", func(t *testing.T) {
		d, p := serving(t, echo, vt.Config{})
		r := d.Ring(0)
		q, act := p.act.Queues[0], p.act
		d.Store32(vt.Status, 0)
		r.Add(vt.Buf{Addr: d.Put([]byte("late")), Len: 4})
		signal(t, d.MMIO.KickFD(0))
		q.Notify()
		act.ConfigChanged()
		time.Sleep(10 * time.Millisecond)
		require.Zero(t, r.DeviceUsedIdx())
		require.Zero(t, d.IRQ.Count())
		require.Zero(t, d.Load32(vt.InterruptStatus))
	})
	t.Run("2.5.2 configuration is readable before FEATURES_OK", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8}, config: []byte("config")}, vt.Config{})
		require.Equal(t, []byte("conf"), d.Load(vt.ConfigSpace, 4))
	})
	t.Run("2.7.4.1 no assumption about framing", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{})
		r := d.Ring(0).DoSplit([][]byte{[]byte("a"), []byte("bcd"), []byte("e")}, 2, 1, 2)
		require.Equal(t, "abcde", string(r.Data))
		require.EqualValues(t, 5, r.Used)
	})
	t.Run("2.7.8.2 len is written before idx, and is what was written", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{})
		for n := range 20 {
			require.EqualValues(t, min(n, 10), d.Ring(0).Do(make([]byte, n+1)[:n], 10).Used)
		}
	})
	t.Run("2.7.10.2 spurious notifications", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{})
		for range 100 {
			d.Ring(0).Kick()
		}
		require.EqualValues(t, 2, d.Ring(0).Do([]byte("hi"), 2).Used)
		require.EqualValues(t, 1, d.Ring(0).DeviceUsedIdx())
	})
}
