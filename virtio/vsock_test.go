package virtio_test

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// vsockHdr builds a header from the guest.
func vsockHdr(op uint16, src, dst, length uint32) []byte {
	h := make([]byte, guestHdr)
	le := binary.LittleEndian
	le.PutUint64(h, 3)
	le.PutUint64(h[8:], 2)
	le.PutUint32(h[16:], src)
	le.PutUint32(h[20:], dst)
	le.PutUint32(h[24:], length)
	le.PutUint16(h[28:], 1)
	le.PutUint16(h[30:], op)
	le.PutUint32(h[36:], guestBufAlloc)
	return h
}

// vsockDriver starts a device behind a driver that has posted nothing.
func vsockDriver(t *testing.T, cfg virtiotest.Config) (*virtio.Vsock, *virtiotest.Driver) {
	v := virtio.NewVsock(virtio.VsockConfig{})
	d := virtiotest.New(t, v, cfg)
	d.Start()
	t.Cleanup(func() { v.Close() })
	return v, d
}

// vsockRecv posts an rx buffer and returns the packet that comes.
func vsockRecv(t *testing.T, d *virtiotest.Driver) []byte {
	t.Helper()
	r := d.Ring(0).Do(nil, guestRxBuf)
	require.GreaterOrEqual(t, int(r.Used), guestHdr)
	return r.Data[:r.Used]
}

func vsockOp(p []byte) uint16 { return binary.LittleEndian.Uint16(p[30:]) }

// vsockAccept connects guest port src to a listener and returns the host's end.
func vsockAccept(t *testing.T, d *virtiotest.Driver, l net.Listener, src uint32) net.Conn {
	t.Helper()
	d.Ring(1).Do(vsockHdr(guestOpRequest, src, l.Addr().(virtio.VsockAddr).Port, 0), 0)
	require.EqualValues(t, guestOpResponse, vsockOp(vsockRecv(t, d)))
	c, err := l.Accept()
	require.NoError(t, err)
	return c
}

func TestVsock_Identity(t *testing.T) {
	v := virtio.NewVsock(virtio.VsockConfig{GuestCID: 77})
	d := virtiotest.New(t, v, virtiotest.Config{})
	require.EqualValues(t, 19, d.Load32(virtiotest.DeviceID)) // virtio 1.2 §5.10.1
	require.Equal(t, []byte{77, 0, 0, 0, 0, 0, 0, 0}, d.Load(virtiotest.ConfigSpace, 8))
	require.Equal(t, []byte{0, 0}, d.Load(virtiotest.ConfigSpace+7, 2))
	d.Start()
	require.NotZero(t, d.Features&1)
	require.Zero(t, d.Features&2) // no SEQPACKET
	require.Nil(t, d.Ring(3))
	require.NotNil(t, d.Ring(2))
}

func TestVsock_ReservedCID(t *testing.T) {
	for _, cid := range []uint64{1, 2, 1<<32 - 1, 1 << 32, 1<<64 - 1} { // virtio 1.2 §5.10.4
		d := virtiotest.New(t, virtio.NewVsock(virtio.VsockConfig{GuestCID: cid}), virtiotest.Config{})
		require.True(t, d.Negotiate(d.Offered()))
		d.SetupQueue(0, 8)
		d.SetupQueue(1, 8)
		d.DriverOK()
		require.True(t, d.NeedsReset())
	}
}

func TestVsock_MissingQueues(t *testing.T) {
	for _, queues := range [][]int{{}, {0}, {1}, {1, 2}, {0, 1}} {
		d := virtiotest.New(t, virtio.NewVsock(virtio.VsockConfig{}), virtiotest.Config{})
		require.True(t, d.Negotiate(d.Offered()))
		for _, q := range queues {
			d.SetupQueue(q, 8)
		}
		d.DriverOK()
		works := len(queues) == 2 && queues[0] == 0
		require.Equal(t, !works, d.NeedsReset(), "%v", queues)
	}
}

// TestVsock_T60_ShortPackets: whatever the driver puts into the tx queue comes
// back exactly once, and the next sound packet is served.
func TestVsock_T60_ShortPackets(t *testing.T) {
	v, d := vsockDriver(t, virtiotest.Config{})
	l, err := v.Listen(1000)
	require.NoError(t, err)
	tx := d.Ring(1)
	for n := 1; n < guestHdr; n++ {
		require.Zero(t, tx.Do(vsockHdr(guestOpRequest, 1, 1000, 0)[:n], 0).Used)
	}
	require.Zero(t, tx.Do(nil, 100).Used) // only room to write
	for _, length := range []uint32{1, 100, 64 << 10, 1<<31 - 1, 1 << 31, 1<<32 - 44, 1<<32 - 1} {
		require.Zero(t, tx.Do(vsockHdr(guestOpRW, 1, 1000, length), 0).Used)
		require.EqualValues(t, guestOpRst, vsockOp(vsockRecv(t, d)))
	}
	c := vsockAccept(t, d, l, 1)

	// Header and data one byte at a time, with a writable buffer at the end.
	var pieces [][]byte
	for _, b := range append(vsockHdr(guestOpRW, 1, 1000, 5), "hello, and padding"...) {
		pieces = append(pieces, []byte{b})
	}
	require.Zero(t, tx.DoSplit(pieces, 10).Used)
	b := make([]byte, 10)
	n, err := c.Read(b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b[:n]))
	require.False(t, d.NeedsReset())
}

// TestAdvisory_CVE_2021_3748_RxBuffers: rx buffers too small for a packet are given back
// empty; others may be cut up in any way and have readable parts.
func TestAdvisory_CVE_2021_3748_RxBuffers(t *testing.T) {
	v, d := vsockDriver(t, virtiotest.Config{})
	l, err := v.Listen(1000)
	require.NoError(t, err)
	c := vsockAccept(t, d, l, 1)
	done := make(chan error, 1)
	go func() { _, err := c.Write([]byte("hello")); done <- err }()
	rx := d.Ring(0)
	for _, n := range []int{1, 43, 44} {
		require.Zero(t, rx.Do(nil, n).Used)
	}
	require.Zero(t, rx.Do([]byte("nothing to write"), 0).Used)
	room := make([]int, 46)
	for i := range room {
		room[i] = 1
	}
	r := rx.DoSplit([][]byte{[]byte("readable")}, room...)
	require.EqualValues(t, 46, r.Used)
	require.Equal(t, "he", string(r.Data[guestHdr:]))
	require.Equal(t, "llo", string(vsockRecv(t, d)[guestHdr:]))
	require.NoError(t, <-done)
}

// TestAdvisory_CVE_2020_16843_RxStarvation: a guest that posts no rx buffers holds up what goes
// to it, not what comes from it; a thousand times.
func TestAdvisory_CVE_2020_16843_RxStarvation(t *testing.T) {
	v, d := vsockDriver(t, virtiotest.Config{})
	l, err := v.Listen(1000)
	require.NoError(t, err)
	c, other := vsockAccept(t, d, l, 1), vsockAccept(t, d, l, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b := make([]byte, 10)
	for range 1000 {
		done := make(chan error, 1)
		go func() { _, err := c.Write([]byte("ping")); done <- err }()
		d.Ring(1).Do(append(vsockHdr(guestOpRW, 2, 1000, 4), "pong"...), 0)
		n, err := other.Read(b)
		require.NoError(t, err)
		require.Equal(t, "pong", string(b[:n]))
		select {
		case <-done:
			require.Fail(t, "written to nowhere")
		default:
		}
		require.Equal(t, "ping", string(vsockRecv(t, d)[guestHdr:]))
		require.NoError(t, <-done)
	}
	dialed := make(chan error, 1)
	go func() { _, err := v.Dial(ctx, 5); dialed <- err }()
	d.Ring(1).Do(append(vsockHdr(guestOpRW, 2, 1000, 4), "pong"...), 0)
	_, err = other.Read(b)
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-dialed, context.Canceled)
}

// TestVsock_DialBeforeDriver: the request waits for the guest to boot.
func TestVsock_DialBeforeDriver(t *testing.T) {
	v := virtio.NewVsock(virtio.VsockConfig{})
	defer v.Close()
	dialed := make(chan net.Conn, 1)
	go func() {
		c, err := v.Dial(t.Context(), 1024)
		if err != nil {
			t.Error(err)
		}
		dialed <- c
	}()
	d := virtiotest.New(t, v, virtiotest.Config{})
	time.Sleep(10 * time.Millisecond)
	d.Start()
	p := vsockRecv(t, d)
	require.EqualValues(t, guestOpRequest, vsockOp(p))
	d.Ring(1).Do(vsockHdr(guestOpResponse, 1024, binary.LittleEndian.Uint32(p[16:]), 0), 0)
	require.NotNil(t, <-dialed)
}

// TestVsock_Batches: a large Write fills many small buffers with few interrupts,
// even if the driver wants each.
func TestVsock_Batches(t *testing.T) {
	for _, cfg := range []virtiotest.Config{{}, {Without: virtio.FeatureEventIdx}} {
		v, d := vsockDriver(t, cfg)
		l, err := v.Listen(1000)
		require.NoError(t, err)
		c := vsockAccept(t, d, l, 1)
		for range 64 {
			d.Ring(0).Add(virtiotest.Buf{Addr: d.Alloc(guestRxBuf, 64), Len: guestRxBuf, Write: true})
		}
		d.Ring(0).Kick()
		before := d.IRQ.Count()
		_, err = c.Write(make([]byte, 64<<10))
		require.NoError(t, err)
		n := 0
		for got := 0; got < 64<<10; n++ {
			_, written := d.Ring(0).Wait()
			got += int(written) - guestHdr
		}
		require.Equal(t, 18, n) // 3,732 bytes each
		require.LessOrEqual(t, d.IRQ.Count()-before, 3)
	}
}

// TestVsock_NotifiesWhenIdle: a single packet interrupts the guest, for nothing
// may follow it.
func TestVsock_NotifiesWhenIdle(t *testing.T) {
	v, d := vsockDriver(t, virtiotest.Config{})
	l, err := v.Listen(1000)
	require.NoError(t, err)
	c := vsockAccept(t, d, l, 1)
	rx := d.Ring(0)
	rx.Add(virtiotest.Buf{Addr: d.Alloc(guestRxBuf, 64), Len: guestRxBuf, Write: true})
	rx.Kick()
	for d.IRQ.Wait(20 * time.Millisecond) { // left over
	}
	rx.SetUsedEvent(rx.UsedIdx)
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	require.True(t, d.IRQ.Wait(virtiotest.Timeout))
}

func TestVsock_T86_LogsOnce(t *testing.T) {
	var log strings.Builder
	v := virtio.NewVsock(virtio.VsockConfig{Log: slog.New(slog.NewTextHandler(&log, nil))})
	defer v.Close()
	d := virtiotest.New(t, v, virtiotest.Config{})
	d.Start()
	for range 1000 {
		d.Ring(1).Do([]byte("junk"), 0)
	}
	require.NoError(t, d.MMIO.Close())
	require.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
}
