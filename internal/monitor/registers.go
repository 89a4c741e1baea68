package monitor

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Samples of the registers that one SIGUSR1 takes, and what is between two.
const (
	registerSamples = 10
	registerRest    = 20 * time.Millisecond
)

// watchRegisters writes to the monitor's log, for each SIGUSR1, where the
// guest's vCPUs are: the question to ask of a guest that no longer answers. It
// ends with the machine.
func (m *monitor) watchRegisters() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	defer signal.Stop(asked)
	for {
		select {
		case <-m.link.machineEnded:
			return
		case <-asked:
		}
		for range registerSamples {
			m.logRegisters()
			select {
			case <-m.link.machineEnded:
				return
			case <-time.After(registerRest):
			}
		}
	}
}

func (m *monitor) logRegisters() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	all, err := m.machine.Registers(ctx)
	if err != nil {
		m.log.Error("where the vCPUs are", "err", err)
		return
	}
	for i, r := range all {
		// An Error, since an answer must not depend on the log's level.
		m.log.Error("where a vCPU is", "cpu", i, "running", r.Running(), "rip", hex(r.RIP), "cs", hex(uint64(r.CS.Selector)),
			"rflags", hex(r.RFLAGS), "rsp", hex(r.RSP), "cr2", hex(r.CR2), "cr3", hex(r.CR3), "gs", hex(r.GS.Base))
	}
}

func hex(n uint64) string { return fmt.Sprintf("%#x", n) }
