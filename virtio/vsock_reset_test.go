package virtio_test

import (
	"context"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// TestVsock_T43_BrokenRing: a ring that makes no sense ends all connections, and
// only a reset helps; then everything works again.
func TestVsock_T43_BrokenRing(t *testing.T) {
	for _, queue := range []int{0, 1} {
		v, d := vsockDriver(t, virtiotest.Config{})
		l, err := v.Listen(1000)
		require.NoError(t, err)
		c := vsockAccept(t, d, l, 1)
		r := d.Ring(queue)
		r.SetAvailIdx(r.AvailIdx + 0x8000)
		r.Kick()
		go c.Write([]byte("x"))
		d.WaitNeedsReset()
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)

		d.Start()
		c = vsockAccept(t, d, l, 1)
		go c.Write([]byte("y"))
		require.Equal(t, "y", string(vsockRecv(t, d)[guestHdr:]))
	}
}

// TestVsock_T37_ResetUnblocks: whoever waits for the guest hears of a reset.
func TestVsock_T37_ResetUnblocks(t *testing.T) {
	v, d := vsockDriver(t, virtiotest.Config{})
	l, err := v.Listen(1000)
	require.NoError(t, err)
	c := vsockAccept(t, d, l, 1)
	errs := make(chan error, 3)
	go func() { _, err := c.Write(make([]byte, 1<<20)); errs <- err }()
	go func() { _, err := c.Read(make([]byte, 1)); errs <- err }()
	p := vsockRecv(t, d)
	require.EqualValues(t, guestOpRW, vsockOp(p))
	d.Reset()
	for range 2 {
		require.ErrorIs(t, <-errs, syscall.ECONNRESET)
	}
	go func() { _, err := l.Accept(); errs <- err }()
	require.NoError(t, v.Close())
	require.ErrorIs(t, <-errs, net.ErrClosed)
}

// TestVsock_T39_ResetStorm: resets under load leave no goroutine behind.
func TestVsock_T39_ResetStorm(t *testing.T) {
	v := virtio.NewVsock(virtio.VsockConfig{})
	defer v.Close()
	d := virtiotest.New(t, v, virtiotest.Config{})
	l, err := v.Listen(1000)
	require.NoError(t, err)
	before := runtime.NumGoroutine()
	for range 1000 {
		d.Start()
		d.Ring(1).Add(virtiotest.Buf{Addr: d.Put(vsockHdr(guestOpRequest, 1, 1000, 0)), Len: guestHdr})
		d.Ring(0).Add(virtiotest.Buf{Addr: d.Alloc(guestRxBuf, 16), Len: guestRxBuf, Write: true})
		d.Ring(1).Kick()
		ctx, cancel := context.WithCancel(t.Context())
		dialed := make(chan error, 1)
		go func() { _, err := v.Dial(ctx, 7); dialed <- err }()
		d.Reset()
		cancel()
		require.Error(t, <-dialed)
	}
	require.NoError(t, l.Close())
	table, live := v.ConnCount()
	require.Zero(t, table+live)
	for i := 0; runtime.NumGoroutine() > before && i < 1000; i++ {
		time.Sleep(time.Millisecond)
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), before)
}

// TestVsock_TransportReset: connections end, and the driver hears of it as soon
// as it has a buffer for the event.
func TestVsock_TransportReset(t *testing.T) {
	v, d := vsockDriver(t, virtiotest.Config{})
	l, err := v.Listen(1000)
	require.NoError(t, err)
	c := vsockAccept(t, d, l, 1)
	v.TransportReset()
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	a := d.Alloc(4, 4)
	require.NoError(t, d.Mem.StoreUint32(a, 0xffffffff))
	event := d.Ring(2)
	event.Add(virtiotest.Buf{Addr: a, Len: 4, Write: true})
	c = vsockAccept(t, d, l, 1) // it goes out with whatever comes next
	_, written := event.Wait()
	require.EqualValues(t, 4, written)
	id, err := d.Mem.LoadUint32(a)
	require.NoError(t, err)
	require.Zero(t, id)
	go c.Write([]byte("z"))
	require.Equal(t, "z", string(vsockRecv(t, d)[guestHdr:]))
	_, _, again := event.Poll()
	require.False(t, again)
}
