package virtio_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kernel"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// Virtio 1.2 §5.19.4 and §5.19.6.
func TestPMem(t *testing.T) {
	d := vt.New(t, virtio.NewPMem(4<<30, 6<<20), vt.Config{})
	d.Start()
	config := d.Load(vt.ConfigSpace, 16)
	require.EqualValues(t, 4<<30, binary.LittleEndian.Uint64(config))
	require.EqualValues(t, 6<<20, binary.LittleEndian.Uint64(config[8:]))
	require.Equal(t, make([]byte, 8), d.Load(vt.ConfigSpace+16, 8))

	for name, tt := range map[string]struct {
		request []byte
		room    int
		answer  []byte
	}{
		"flush":              {[]byte{0, 0, 0, 0}, 4, []byte{0, 0, 0, 0}},
		"room to spare":      {[]byte{0, 0, 0, 0}, 100, []byte{0, 0, 0, 0}},
		"unknown request":    {[]byte{1, 0, 0, 0}, 4, []byte{255, 255, 255, 255}},
		"short request":      {[]byte{0, 0}, 4, []byte{255, 255, 255, 255}},
		"no request":         {nil, 4, []byte{255, 255, 255, 255}},
		"no room":            {[]byte{0, 0, 0, 0}, 0, nil},
		"not enough of room": {[]byte{0, 0, 0, 0}, 3, nil},
	} {
		r := d.Ring(0).Do(tt.request, tt.room)
		require.EqualValues(t, len(tt.answer), r.Used, name)
		require.Equal(t, tt.answer, append([]byte(nil), r.Data[:r.Used]...), name)
	}
}

func TestPMem_GuestConfigs(t *testing.T) {
	for _, option := range virtio.NewPMem(0, 0).GuestConfigs() {
		require.True(t, kernel.HasConfig(option), option)
	}
}

func FuzzPMem(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0}, uint8(4))
	f.Add([]byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, request []byte, room uint8) {
		d := vt.New(t, virtio.NewPMem(4<<30, 2<<20), fuzzConfig)
		d.Start()
		if len(request) > 4096 {
			request = request[:4096]
		}
		if len(request)+int(room) == 0 {
			return // no descriptor, no request
		}
		r := d.Ring(0).Do(request, int(room))
		require.LessOrEqual(t, int(r.Used), int(room))
	})
}
