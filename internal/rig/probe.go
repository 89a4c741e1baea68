package rig

import (
	"os"
	"time"

	"github.com/sandpit-vm/sandpit/kvm"
)

// Probe tells how many instructions per second the host's KVM runs at CPL 0,
// and whether that will do. The file's existence says nothing: a KVM that
// interprets guest kernels has one too.
//
// In L1 a slow result only means that the host is busy, so there it is the best
// within some seconds.
func Probe() (speed float64, usable bool, err error) {
	sys, err := kvm.Open()
	if err != nil {
		return 0, false, err
	}
	defer sys.Close()
	patience := time.Now()
	if os.Getenv(EnvVar) == EnvEmulated {
		patience = patience.Add(5 * time.Second)
	}
	for {
		once, err := sys.MeasureRing0()
		if err != nil {
			return 0, false, err
		}
		if speed = max(speed, once); speed >= kvm.UsableRing0 {
			return speed, true, nil
		}
		if time.Now().After(patience) {
			return speed, false, nil
		}
	}
}

// kvmTSCKHz asks KVM for the TSC frequency of a new vCPU, which is the host's.
// Any /dev/kvm can tell, also one that is unfit to run guests.
func kvmTSCKHz() uint32 {
	sys, err := kvm.Open()
	if err != nil {
		return 0
	}
	defer sys.Close()
	vm, err := sys.CreateVM()
	if err != nil {
		return 0
	}
	defer vm.Close()
	vcpu, err := vm.CreateVCPU(0)
	if err != nil {
		return 0
	}
	defer vcpu.Close()
	khz, err := vcpu.TSCKHz()
	if err != nil {
		return 0
	}
	return khz
}
