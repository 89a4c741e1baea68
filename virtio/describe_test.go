package virtio_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

func TestDescribe(t *testing.T) {
	d := vt.New(t, virtio.NewBalloon(virtio.BalloonConfig{}), vt.Config{})
	d.Start()
	describe := func(off uint64, write bool, v uint32) virtio.Access {
		return d.MMIO.Describe(off, write, binary.LittleEndian.AppendUint32(nil, v))
	}
	d.Store32(vt.QueueSel, 2)
	d.Store32(vt.DeviceFeaturesSel, 0)
	d.Store32(vt.DriverFeaturesSel, 1)
	for _, tt := range []struct {
		off   uint64
		write bool
		value uint32
		want  virtio.Access
	}{
		{vt.MagicValue, false, 0x74726976, virtio.Access{Register: "MagicValue", Note: `"virt"`}},
		{vt.DeviceID, false, 5, virtio.Access{Register: "DeviceID", Note: "balloon"}},
		{vt.DeviceFeatures, false, 0x30000024, virtio.Access{Register: "DeviceFeatures", Note: "DEFLATE_ON_OOM PAGE_REPORTING INDIRECT_DESC EVENT_IDX"}},
		{vt.DriverFeatures, true, 3, virtio.Access{Register: "DriverFeatures", Note: "VERSION_1 bit-33"}},
		{vt.Status, true, 0, virtio.Access{Register: "Status", Note: "reset"}},
		{vt.Status, true, 15, virtio.Access{Register: "Status", Note: "ACKNOWLEDGE DRIVER DRIVER_OK FEATURES_OK"}},
		{vt.Status, true, 0x8f, virtio.Access{Register: "Status", Note: "ACKNOWLEDGE DRIVER DRIVER_OK FEATURES_OK FAILED; is ACKNOWLEDGE DRIVER DRIVER_OK FEATURES_OK"}},
		{vt.QueueSize, true, 32, virtio.Access{Register: "QueueSize", Queue: 2}},
		{vt.QueueNotify, true, 3, virtio.Access{Register: "QueueNotify", Queue: 3}},
		{vt.InterruptACK, true, 7, virtio.Access{Register: "InterruptACK", Note: "used buffer configuration change bit-2"}},
		{vt.ConfigSpace + 4, true, 7, virtio.Access{Register: "Config", Note: "4 bytes at 4"}},
		{0x3, false, 7, virtio.Access{Register: "reserved", Note: "not a 32-bit access: ignored"}},
	} {
		require.Equal(t, tt.want, describe(tt.off, tt.write, tt.value))
	}
	// Whatever the guest does.
	for off := range uint64(virtio.WindowSize + 16) {
		for n := range 9 {
			d.MMIO.Describe(off, true, make([]byte, n))
		}
	}
	require.Equal(t, "RO bit-63", virtio.FeatureNames(virtio.TypeBlk, 1<<5|1<<63))
}
