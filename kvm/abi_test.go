package kvm

import (
	"bufio"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// golden is what the kernel's own headers say: testdata/abi.c printed it.
type golden struct {
	sizes     map[string]uintptr               // structure → size
	fields    map[string]map[string][2]uintptr // structure → field → offset, size
	requests  map[string]uintptr
	constants map[string]uint64
}

func readGolden(t *testing.T) golden {
	f, err := os.Open("testdata/abi_amd64.golden")
	require.NoError(t, err)
	defer f.Close()
	g := golden{map[string]uintptr{}, map[string]map[string][2]uintptr{}, map[string]uintptr{}, map[string]uint64{}}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		kind, rest, _ := strings.Cut(sc.Text(), " ")
		var name string
		var a, b uintptr
		switch kind {
		case "struct":
			_, err = fmt.Sscanf(rest, "%s %d", &name, &a)
			g.sizes[name] = a
		case "field":
			_, err = fmt.Sscanf(rest, "%s %d %d", &name, &a, &b)
			s, field, _ := strings.Cut(name, ".")
			if s == "kvm_run" && strings.Contains(field, ".") { // of the union
				i := strings.LastIndex(field, ".")
				s, field = s+"."+field[:i], field[i+1:]
			}
			if g.fields[s] == nil {
				g.fields[s] = map[string][2]uintptr{}
			}
			g.fields[s][field] = [2]uintptr{a, b}
		case "request":
			_, err = fmt.Sscanf(rest, "%s 0x%x", &name, &a)
			g.requests[name] = a
		case "const":
			var v uint64
			_, err = fmt.Sscanf(rest, "%s %d", &name, &v)
			g.constants[name] = v
		default:
			t.Fatalf("bad line %q", sc.Text())
		}
		require.NoError(t, err)
	}
	return g
}

var abiStructs = map[string]any{
	"kvm_regs": Regs{}, "kvm_segment": Segment{}, "kvm_dtable": DTable{}, "kvm_sregs": Sregs{},
	"kvm_fpu": FPU{}, "kvm_lapic_state": LAPICState{}, "kvm_xsave": XSave{}, "kvm_xcr": XCR{},
	"kvm_xcrs": XCRS{}, "kvm_msr_entry": MSR{}, "kvm_cpuid_entry2": CPUIDEntry{},
	"kvm_vcpu_events": VCPUEvents{}, "kvm_debugregs": DebugRegs{}, "kvm_guest_debug": GuestDebug{},
	"kvm_translation": Translation{}, "kvm_clock_data": ClockData{},
	"kvm_pit_channel_state": PITChannel{}, "kvm_pit_state2": PITState{},

	"kvm_userspace_memory_region": kvmUserspaceMemoryRegion{}, "kvm_dirty_log": kvmDirtyLog{},
	"kvm_irq_level": kvmIRQLevel{}, "kvm_irqchip": kvmIRQChip{}, "kvm_irq_routing": kvmIRQRouting{},
	"kvm_irq_routing_entry": kvmIRQRoutingEntry{}, "kvm_irqfd": kvmIRQFD{},
	"kvm_pit_config": kvmPITConfig{}, "kvm_ioeventfd": kvmIOEventFD{},
	"kvm_enable_cap": kvmEnableCap{}, "kvm_msi": kvmMSI{}, "kvm_msr_list": kvmMSRList{},
	"kvm_msrs": kvmMSRs{}, "kvm_cpuid2": kvmCPUID2{}, "kvm_mp_state": kvmMPState{},

	"kvm_run": kvmRun{}, "kvm_run.hw": kvmRunHW{}, "kvm_run.fail_entry": kvmRunFailEntry{},
	"kvm_run.ex": kvmRunEx{}, "kvm_run.io": kvmRunIO{}, "kvm_run.debug.arch": kvmRunDebug{},
	"kvm_run.mmio": kvmRunMMIO{}, "kvm_run.internal": kvmRunInternal{},
	"kvm_run.system_event": kvmRunSystemEvent{}, "kvm_run.eoi": kvmRunEOI{}, "kvm_run.msr": kvmRunMSR{},
}

// TestABI_Structs compares every field of every structure: its name, its offset
// and its size. Both sides must have the same fields.
func TestABI_Structs(t *testing.T) {
	g := readGolden(t)
	require.ElementsMatch(t, keys(g.fields), keys(abiStructs))
	for name, v := range abiStructs {
		t.Run(name, func(t *testing.T) {
			typ := reflect.TypeOf(v)
			if size, ok := g.sizes[name]; ok { // members of the union have no size of their own
				require.Equal(t, size, typ.Size())
			}
			require.Equal(t, normalized(g.fields[name]), goFields(typ, "", 0))
			require.True(t, strings.HasSuffix(typ.Field(0).Type.String(), "structs.HostLayout"))
		})
	}
}

// goFields lists a structure's fields under lower-case names, nested structures
// that have no type of their own taken apart.
func goFields(typ reflect.Type, prefix string, base uintptr) map[string][2]uintptr {
	out := map[string][2]uintptr{}
	for i := range typ.NumField() {
		f := typ.Field(i)
		name := prefix + strings.ToLower(f.Name)
		switch {
		case f.Name == "_":
		case f.Type.Kind() == reflect.Struct && f.Type.Name() == "":
			for k, v := range goFields(f.Type, name+".", base+f.Offset) {
				out[k] = v
			}
		default:
			out[name] = [2]uintptr{base + f.Offset, f.Type.Size()}
		}
	}
	return out
}

// normalized turns the C names into goFields' names.
func normalized(fields map[string][2]uintptr) map[string][2]uintptr {
	out := map[string][2]uintptr{}
	for name, v := range fields {
		if name == "type" {
			if _, ok := fields["selector"]; !ok { // of Segment, where it is exported
				name = "typ"
			}
		}
		out[strings.ReplaceAll(name, "_", "")] = v
	}
	return out
}

func keys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	return out
}

func TestABI_Requests(t *testing.T) {
	require.Equal(t, readGolden(t).requests, map[string]uintptr{
		"KVM_GET_API_VERSION": _KVM_GET_API_VERSION, "KVM_CREATE_VM": _KVM_CREATE_VM,
		"KVM_GET_MSR_INDEX_LIST": _KVM_GET_MSR_INDEX_LIST, "KVM_CHECK_EXTENSION": _KVM_CHECK_EXTENSION,
		"KVM_GET_VCPU_MMAP_SIZE":  _KVM_GET_VCPU_MMAP_SIZE,
		"KVM_GET_SUPPORTED_CPUID": _KVM_GET_SUPPORTED_CPUID,

		"KVM_CREATE_VCPU": _KVM_CREATE_VCPU, "KVM_GET_DIRTY_LOG": _KVM_GET_DIRTY_LOG,
		"KVM_SET_USER_MEMORY_REGION": _KVM_SET_USER_MEMORY_REGION, "KVM_SET_TSS_ADDR": _KVM_SET_TSS_ADDR,
		"KVM_SET_IDENTITY_MAP_ADDR": _KVM_SET_IDENTITY_MAP_ADDR, "KVM_CREATE_IRQCHIP": _KVM_CREATE_IRQCHIP,
		"KVM_IRQ_LINE": _KVM_IRQ_LINE, "KVM_GET_IRQCHIP": _KVM_GET_IRQCHIP,
		"KVM_SET_IRQCHIP": _KVM_SET_IRQCHIP, "KVM_SET_GSI_ROUTING": _KVM_SET_GSI_ROUTING,
		"KVM_IRQFD": _KVM_IRQFD, "KVM_CREATE_PIT2": _KVM_CREATE_PIT2, "KVM_IOEVENTFD": _KVM_IOEVENTFD,
		"KVM_SET_CLOCK": _KVM_SET_CLOCK, "KVM_GET_CLOCK": _KVM_GET_CLOCK, "KVM_GET_PIT2": _KVM_GET_PIT2,
		"KVM_SET_PIT2": _KVM_SET_PIT2, "KVM_ENABLE_CAP": _KVM_ENABLE_CAP, "KVM_SIGNAL_MSI": _KVM_SIGNAL_MSI,

		"KVM_RUN": _KVM_RUN, "KVM_GET_REGS": _KVM_GET_REGS, "KVM_SET_REGS": _KVM_SET_REGS,
		"KVM_GET_SREGS": _KVM_GET_SREGS, "KVM_SET_SREGS": _KVM_SET_SREGS, "KVM_TRANSLATE": _KVM_TRANSLATE,
		"KVM_GET_MSRS": _KVM_GET_MSRS, "KVM_SET_MSRS": _KVM_SET_MSRS, "KVM_GET_FPU": _KVM_GET_FPU,
		"KVM_SET_FPU": _KVM_SET_FPU, "KVM_GET_LAPIC": _KVM_GET_LAPIC, "KVM_SET_LAPIC": _KVM_SET_LAPIC,
		"KVM_SET_CPUID2": _KVM_SET_CPUID2, "KVM_GET_CPUID2": _KVM_GET_CPUID2,
		"KVM_GET_MP_STATE": _KVM_GET_MP_STATE, "KVM_SET_MP_STATE": _KVM_SET_MP_STATE, "KVM_NMI": _KVM_NMI,
		"KVM_SET_GUEST_DEBUG": _KVM_SET_GUEST_DEBUG, "KVM_GET_VCPU_EVENTS": _KVM_GET_VCPU_EVENTS,
		"KVM_SET_VCPU_EVENTS": _KVM_SET_VCPU_EVENTS, "KVM_GET_DEBUGREGS": _KVM_GET_DEBUGREGS,
		"KVM_SET_DEBUGREGS": _KVM_SET_DEBUGREGS, "KVM_SET_TSC_KHZ": _KVM_SET_TSC_KHZ,
		"KVM_GET_TSC_KHZ": _KVM_GET_TSC_KHZ, "KVM_GET_XSAVE": _KVM_GET_XSAVE,
		"KVM_SET_XSAVE": _KVM_SET_XSAVE, "KVM_GET_XCRS": _KVM_GET_XCRS, "KVM_SET_XCRS": _KVM_SET_XCRS,
		"KVM_KVMCLOCK_CTRL": _KVM_KVMCLOCK_CTRL,
	})
}

func TestABI_Constants(t *testing.T) {
	want := map[string]uint64{
		"KVM_API_VERSION": _KVM_API_VERSION, "KVM_IRQFD_FLAG_DEASSIGN": _KVM_IRQFD_FLAG_DEASSIGN,
		"KVM_IOEVENTFD_FLAG_DATAMATCH": _KVM_IOEVENTFD_FLAG_DATAMATCH,
		"KVM_IOEVENTFD_FLAG_PIO":       _KVM_IOEVENTFD_FLAG_PIO,
		"KVM_IOEVENTFD_FLAG_DEASSIGN":  _KVM_IOEVENTFD_FLAG_DEASSIGN,
		"KVM_PIT_SPEAKER_DUMMY":        _KVM_PIT_SPEAKER_DUMMY,
		"KVM_IRQ_ROUTING_IRQCHIP":      _KVM_IRQ_ROUTING_IRQCHIP, "KVM_IRQ_ROUTING_MSI": _KVM_IRQ_ROUTING_MSI,
		"KVM_EXIT_IO_IN": _KVM_EXIT_IO_IN, "KVM_EXIT_IO_OUT": _KVM_EXIT_IO_OUT,
		"KVM_CPUID_FLAG_SIGNIFCANT_INDEX": _KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		"KVM_MEM_LOG_DIRTY_PAGES":         uint64(MemLogDirtyPages), "KVM_MEM_READONLY": uint64(MemReadonly),
		"KVM_IRQCHIP_PIC_MASTER": uint64(PICMaster), "KVM_IRQCHIP_PIC_SLAVE": uint64(PICSlave),
		"KVM_IRQCHIP_IOAPIC":    uint64(IOAPIC),
		"KVM_MP_STATE_RUNNABLE": uint64(MPRunnable), "KVM_MP_STATE_UNINITIALIZED": uint64(MPUninitialized),
		"KVM_MP_STATE_INIT_RECEIVED": uint64(MPInitReceived), "KVM_MP_STATE_HALTED": uint64(MPHalted),
		"KVM_MP_STATE_SIPI_RECEIVED": uint64(MPSIPIReceived),
		"KVM_CLOCK_TSC_STABLE":       ClockTSCStable, "KVM_CLOCK_REALTIME": ClockRealtime,
		"KVM_CLOCK_HOST_TSC":  ClockHostTSC,
		"KVM_GUESTDBG_ENABLE": GuestDebugEnable, "KVM_GUESTDBG_SINGLESTEP": GuestDebugSingleStep,
		"KVM_GUESTDBG_USE_SW_BP": GuestDebugSWBP, "KVM_GUESTDBG_USE_HW_BP": GuestDebugHWBP,
	}
	got := readGolden(t).constants
	for _, k := range []ExitKind{
		ExitUnknown, ExitException, ExitIO, ExitDebug, ExitHLT, ExitMMIO, ExitIRQWindowOpen,
		ExitShutdown, ExitFailEntry, ExitInterrupted, ExitInternalError, ExitSystemEvent,
		ExitIOAPICEOI, ExitRDMSR, ExitWRMSR, ExitDirtyRingFull,
	} {
		want["KVM_EXIT_"+k.String()] = uint64(k)
	}
	for c := range Cap(300) {
		if c.Since() != "" {
			want[c.String()] = uint64(c)
		}
	}
	require.Equal(t, want, got)
}
