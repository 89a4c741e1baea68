package virtio_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

func TestRNG(t *testing.T) {
	d := vt.New(t, virtio.NewRNG(rand.Reader), vt.Config{})
	d.Start()
	seen := map[string]bool{}
	for range 20 {
		r := d.Ring(0).Do(nil, 32)
		require.EqualValues(t, 32, r.Used)
		require.False(t, seen[string(r.Data)])
		seen[string(r.Data)] = true
	}
	r := d.Ring(0).DoSplit(nil, 1, 2, 3, 100)
	require.EqualValues(t, 106, r.Used)
	require.NotEqual(t, make([]byte, 100), r.Data[6:])
	// What the driver must not do (§5.4.6.1) hurts nobody.
	require.Zero(t, d.Ring(0).Do([]byte("readable"), 0).Used)
	require.EqualValues(t, 4, d.Ring(0).Do([]byte("readable"), 4).Used)
	require.Equal(t, make([]byte, 8), d.Load(vt.ConfigSpace, 8))
}

func TestRNG_T77_CapAndRate(t *testing.T) {
	d := vt.New(t, virtio.NewRNG(rand.Reader), vt.Config{})
	d.Start()
	start := time.Now()
	var total int
	for time.Since(start) < 400*time.Millisecond {
		r := d.Ring(0).Do(nil, 1<<20)
		require.NotZero(t, r.Used, "§5.4.6.2: one byte at least")
		require.LessOrEqual(t, r.Used, uint32(64<<10))
		require.Equal(t, make([]byte, 100), r.Data[r.Used:][:100], "wrote more than it said")
		total += int(r.Used)
		if total > 1<<20 { // a reset does not fill the bucket
			d.Start()
		}
	}
	limit := 1<<20 + int(time.Since(start).Seconds()*(4<<20)) + 64<<10
	require.LessOrEqual(t, total, limit)

	// A throttled worker is stopped at once.
	d.Ring(0).Add(vt.Buf{Addr: d.Alloc(64<<10, 8), Len: 64 << 10, Write: true})
	d.Ring(0).Kick()
	start = time.Now()
	d.Reset()
	require.Less(t, time.Since(start), vt.Timeout)
}

func TestRNG_SourceFails(t *testing.T) {
	d := vt.New(t, virtio.NewRNG(io.MultiReader(bytes.NewReader([]byte("12345")), failing{})), vt.Config{})
	d.Start()
	r := d.Ring(0).Do(nil, 8)
	require.EqualValues(t, 5, r.Used)
	require.Equal(t, "12345", string(r.Data[:5]))
	d.Ring(0).Add(vt.Buf{Addr: 0x100, Len: 4, Write: true})
	d.Ring(0).Kick()
	d.WaitNeedsReset() // it must not hand out what is not random
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("no entropy") }
