package hostile

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
	"github.com/sandpit-vm/sandpit/vmm"
)

// balloonBox is a machine with a balloon, and its driver on vCPU 0.
func balloonBox(t *testing.T, cfg vmm.Config) (*box, *virtio.Balloon, *vt.Driver) {
	t.Helper()
	balloon := virtio.NewBalloon(virtio.BalloonConfig{})
	cfg.Virtio = []vmm.VirtioDevice{{Name: "balloon", Device: balloon}}
	b := run(t, cfg)
	d := vt.NewOver(t, Window{G: b.Guest, Base: boot.MMIODeviceBase, Fail: func(err error) { require.NoError(t, err) }},
		RAM{b.Guest}, vt.Config{QueueSize: 16, MemBase: subjectBase, MemSize: subjectSize})
	d.Start()
	return b, balloon, d
}

// A guest that gives all its memory away, with the program that it is, and its
// page tables, has ended itself: with a reason, and nothing of the host's.
func TestMachine_T80_EverythingGivenAway(t *testing.T) {
	b, balloon, d := balloonBox(t, vmm.Config{})
	d.Ring(reportQueue).Add(vt.Buf{Addr: 0, Len: Memory, Write: true})
	c := b.CPU(0)
	require.NoError(t, c.Store(boot.MMIODeviceBase+virtio.NotifyOffset, 4, reportQueue))
	require.NoError(t, c.begin()) // it may not come back
	require.Eventually(t, func() bool { return balloon.Counters().Reported == Memory }, Timeout, time.Millisecond)
	go func() { <-b.ended; b.End() }()
	// If it came back before its code was gone, one more command lets it go on,
	// where nothing is left. Both fail if it is dead already.
	_ = c.Flush()
	_ = c.Halt()
	b.end(t)
	require.NoError(t, b.err)
	switch b.reason.(type) {
	case vmm.TripleFault, vmm.InternalError, vmm.UnknownExit:
	default:
		t.Fatalf("ended with %T: %v", b.reason, b.reason)
	}
	require.Equal(t, virtio.BalloonCounters{Reported: Memory}, balloon.Counters())
}

// Persistent memory is a file that guests share, and no RAM: it cannot be given
// away, by number or by range.
func TestMachine_T79_PersistentMemoryIsNoRAM(t *testing.T) {
	content := bytes.Repeat([]byte("contents"), 4<<20/8)
	name := filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(name, content, 0o600))
	f, err := os.OpenFile(name, os.O_RDWR, 0) // more than the monitor has
	require.NoError(t, err)
	defer f.Close()
	b, balloon, d := balloonBox(t, vmm.Config{PMem: []vmm.PMemFile{{Name: "image", File: f}}})
	at := boot.PMem(boot.Ranges(Memory), 4<<20)[0].Base
	var list []guestmem.GPA
	for i := range guestmem.GPA(1024) {
		list = append(list, at+i*page)
	}
	require.Zero(t, d.Ring(inflateQueue).Do(pfns(list...), 0).Used)
	require.Equal(t, virtio.BalloonCounters{Ignored: 4 << 20}, balloon.Counters())
	d.Ring(reportQueue).Add(vt.Buf{Addr: at, Len: 4 << 20, Write: true})
	d.Ring(reportQueue).Kick()
	d.WaitNeedsReset()
	require.Equal(t, virtio.BalloonCounters{Ignored: 4 << 20}, balloon.Counters())
	v, err := b.CPU(0).Load(uint64(at), 8)
	require.NoError(t, err)
	require.EqualValues(t, 0x73746e65746e6f63, v)
	got, err := os.ReadFile(name)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
}

// A machine that is paused while its guest gives memory away: the balloon
// finishes what it was given, and the guest finds its other pages as they were.
func TestMachine_T41_PauseWhileGivingAway(t *testing.T) {
	b, balloon, d := balloonBox(t, vmm.Config{})
	require.NoError(t, RAM{b.Guest}.WriteAt(bytes.Repeat([]byte{0xb8}, 3*page), balloonAt))
	const n = 16 << 10
	at := d.Put(bytes.Repeat(pfns(balloonAt, balloonAt+2*page), n/2)) // no two neighbours
	flag := d.Alloc(8, 8)
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	for round := range uint64(3) {
		d.Ring(inflateQueue).Add(vt.Buf{Addr: at, Len: 4 * n})
		d.Ring(inflateQueue).Kick()
		require.NoError(t, b.CPU(0).Spin(flag, uint32(round+1))) // a vCPU that waits for commands cannot be paused
		require.NoError(t, b.m.Pause(ctx))
		require.Eventually(t, func() bool { return balloon.Counters().Inflated == (round+1)*n*page }, Timeout, time.Millisecond)
		require.NoError(t, b.m.Memory().StoreUint64(flag, round+1))
		require.NoError(t, b.m.Resume())
		_, used := d.Ring(inflateQueue).Wait()
		require.Zero(t, used)
	}
	require.Equal(t, make([]byte, page), d.Get(balloonAt, page))
	require.Equal(t, bytes.Repeat([]byte{0xb8}, page), d.Get(balloonAt+page, page))
	require.Equal(t, make([]byte, page), d.Get(balloonAt+2*page, page))
}
