package devices_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/devices"
)

func TestPortName(t *testing.T) {
	require.Equal(t, "8254 timer", devices.PortName(0x43))
	require.Equal(t, "PCI configuration", devices.PortName(0xcf8))
	require.Equal(t, "another serial port", devices.PortName(0x2f8))
	require.Empty(t, devices.PortName(0x44))
	require.Empty(t, devices.PortName(0x3f8), "the first one is a device of ours")
}

func TestRegisterName(t *testing.T) {
	for _, tt := range []struct {
		device string
		off    uint64
		write  bool
		want   string
	}{
		{"serial", 0, true, "THR"}, {"serial", 0, false, "RBR"}, {"serial", 7, false, "SCR"}, {"serial", 8, false, ""},
		{"i8042", 4, true, "command"}, {"i8042", 4, false, "status"}, {"i8042", 2, false, ""},
		{"rtc", 1, true, "data"}, {"exit", 0, true, "code"}, {"mine", 0, true, ""}, {"", 1 << 63, true, ""},
	} {
		require.Equal(t, tt.want, devices.RegisterName(tt.device, tt.off, tt.write), "%+v", tt)
	}
}
