package devices_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/devices"
)

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
