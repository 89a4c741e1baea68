package kvm_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

func TestMeasureRing0(t *testing.T) {
	sys := kvmtest.NeedKVM(t)
	for range 5 {
		start := time.Now()
		speed, err := sys.MeasureRing0()
		require.NoError(t, err)
		t.Logf("%.0f million instructions/s, measured in %v", speed/1e6, time.Since(start))
		require.Greater(t, speed, float64(kvm.UsableRing0))
		require.Less(t, speed, 100e9)
	}
}
