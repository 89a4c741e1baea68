/*
 * Prints the ABI that package kvm transcribes: abi.sh, which go generate runs,
 * writes it to abi_amd64.golden. Any kernel headers from Linux 6.1 on give the
 * same output, since the ABI only grows.
 */
#include <linux/kvm.h>
#include <stddef.h>
#include <stdio.h>

#define S(s) printf("struct " #s " %zu\n", sizeof(struct s))
#define F(s, f) \
	printf("field " #s "." #f " %zu %zu\n", offsetof(struct s, f), sizeof(((struct s *)0)->f))

/* A member of kvm_run's union, with offsets from the union's start. */
#define UNION offsetof(struct kvm_run, padding)
#define UF(m, f)                                                      \
	printf("field kvm_run." #m "." #f " %zu %zu\n",               \
	       offsetof(struct kvm_run, m.f) - UNION,                 \
	       sizeof(((struct kvm_run *)0)->m.f))

#define R(r) printf("request " #r " %#lx\n", (unsigned long)(r))
#define C(c) printf("const " #c " %lu\n", (unsigned long)(c))

static void state(void)
{
	S(kvm_regs);
	F(kvm_regs, rax); F(kvm_regs, rbx); F(kvm_regs, rcx); F(kvm_regs, rdx);
	F(kvm_regs, rsi); F(kvm_regs, rdi); F(kvm_regs, rsp); F(kvm_regs, rbp);
	F(kvm_regs, r8); F(kvm_regs, r9); F(kvm_regs, r10); F(kvm_regs, r11);
	F(kvm_regs, r12); F(kvm_regs, r13); F(kvm_regs, r14); F(kvm_regs, r15);
	F(kvm_regs, rip); F(kvm_regs, rflags);

	S(kvm_segment);
	F(kvm_segment, base); F(kvm_segment, limit); F(kvm_segment, selector);
	F(kvm_segment, type); F(kvm_segment, present); F(kvm_segment, dpl);
	F(kvm_segment, db); F(kvm_segment, s); F(kvm_segment, l); F(kvm_segment, g);
	F(kvm_segment, avl); F(kvm_segment, unusable); F(kvm_segment, padding);

	S(kvm_dtable);
	F(kvm_dtable, base); F(kvm_dtable, limit); F(kvm_dtable, padding);

	S(kvm_sregs);
	F(kvm_sregs, cs); F(kvm_sregs, ds); F(kvm_sregs, es); F(kvm_sregs, fs);
	F(kvm_sregs, gs); F(kvm_sregs, ss); F(kvm_sregs, tr); F(kvm_sregs, ldt);
	F(kvm_sregs, gdt); F(kvm_sregs, idt); F(kvm_sregs, cr0); F(kvm_sregs, cr2);
	F(kvm_sregs, cr3); F(kvm_sregs, cr4); F(kvm_sregs, cr8); F(kvm_sregs, efer);
	F(kvm_sregs, apic_base); F(kvm_sregs, interrupt_bitmap);

	S(kvm_fpu);
	F(kvm_fpu, fpr); F(kvm_fpu, fcw); F(kvm_fpu, fsw); F(kvm_fpu, ftwx);
	F(kvm_fpu, pad1); F(kvm_fpu, last_opcode); F(kvm_fpu, last_ip);
	F(kvm_fpu, last_dp); F(kvm_fpu, xmm); F(kvm_fpu, mxcsr); F(kvm_fpu, pad2);

	S(kvm_lapic_state);
	F(kvm_lapic_state, regs);

	S(kvm_xsave);
	F(kvm_xsave, region);

	S(kvm_xcr);
	F(kvm_xcr, xcr); F(kvm_xcr, reserved); F(kvm_xcr, value);

	S(kvm_xcrs);
	F(kvm_xcrs, nr_xcrs); F(kvm_xcrs, flags); F(kvm_xcrs, xcrs); F(kvm_xcrs, padding);

	S(kvm_msr_entry);
	F(kvm_msr_entry, index); F(kvm_msr_entry, reserved); F(kvm_msr_entry, data);

	S(kvm_cpuid_entry2);
	F(kvm_cpuid_entry2, function); F(kvm_cpuid_entry2, index);
	F(kvm_cpuid_entry2, flags); F(kvm_cpuid_entry2, eax); F(kvm_cpuid_entry2, ebx);
	F(kvm_cpuid_entry2, ecx); F(kvm_cpuid_entry2, edx); F(kvm_cpuid_entry2, padding);

	S(kvm_vcpu_events);
	F(kvm_vcpu_events, exception.injected); F(kvm_vcpu_events, exception.nr);
	F(kvm_vcpu_events, exception.has_error_code); F(kvm_vcpu_events, exception.pending);
	F(kvm_vcpu_events, exception.error_code);
	F(kvm_vcpu_events, interrupt.injected); F(kvm_vcpu_events, interrupt.nr);
	F(kvm_vcpu_events, interrupt.soft); F(kvm_vcpu_events, interrupt.shadow);
	F(kvm_vcpu_events, nmi.injected); F(kvm_vcpu_events, nmi.pending);
	F(kvm_vcpu_events, nmi.masked); F(kvm_vcpu_events, nmi.pad);
	F(kvm_vcpu_events, sipi_vector); F(kvm_vcpu_events, flags);
	F(kvm_vcpu_events, smi.smm); F(kvm_vcpu_events, smi.pending);
	F(kvm_vcpu_events, smi.smm_inside_nmi); F(kvm_vcpu_events, smi.latched_init);
	F(kvm_vcpu_events, triple_fault.pending);
	F(kvm_vcpu_events, reserved); F(kvm_vcpu_events, exception_has_payload);
	F(kvm_vcpu_events, exception_payload);

	S(kvm_debugregs);
	F(kvm_debugregs, db); F(kvm_debugregs, dr6); F(kvm_debugregs, dr7);
	F(kvm_debugregs, flags); F(kvm_debugregs, reserved);

	S(kvm_guest_debug);
	F(kvm_guest_debug, control); F(kvm_guest_debug, pad); F(kvm_guest_debug, arch);

	S(kvm_translation);
	F(kvm_translation, linear_address); F(kvm_translation, physical_address);
	F(kvm_translation, valid); F(kvm_translation, writeable);
	F(kvm_translation, usermode); F(kvm_translation, pad);

	S(kvm_clock_data);
	F(kvm_clock_data, clock); F(kvm_clock_data, flags); F(kvm_clock_data, pad0);
	F(kvm_clock_data, realtime); F(kvm_clock_data, host_tsc); F(kvm_clock_data, pad);

	S(kvm_pit_channel_state);
	F(kvm_pit_channel_state, count); F(kvm_pit_channel_state, latched_count);
	F(kvm_pit_channel_state, count_latched); F(kvm_pit_channel_state, status_latched);
	F(kvm_pit_channel_state, status); F(kvm_pit_channel_state, read_state);
	F(kvm_pit_channel_state, write_state); F(kvm_pit_channel_state, write_latch);
	F(kvm_pit_channel_state, rw_mode); F(kvm_pit_channel_state, mode);
	F(kvm_pit_channel_state, bcd); F(kvm_pit_channel_state, gate);
	F(kvm_pit_channel_state, count_load_time);

	S(kvm_pit_state2);
	F(kvm_pit_state2, channels); F(kvm_pit_state2, flags); F(kvm_pit_state2, reserved);
}

static void requests_structs(void)
{
	S(kvm_userspace_memory_region);
	F(kvm_userspace_memory_region, slot); F(kvm_userspace_memory_region, flags);
	F(kvm_userspace_memory_region, guest_phys_addr);
	F(kvm_userspace_memory_region, memory_size);
	F(kvm_userspace_memory_region, userspace_addr);

	S(kvm_dirty_log);
	F(kvm_dirty_log, slot); F(kvm_dirty_log, padding1); F(kvm_dirty_log, dirty_bitmap);

	S(kvm_irq_level);
	F(kvm_irq_level, irq); F(kvm_irq_level, level);

	S(kvm_irqchip);
	F(kvm_irqchip, chip_id); F(kvm_irqchip, pad);
	printf("field kvm_irqchip.chip %zu %zu\n", offsetof(struct kvm_irqchip, chip),
	       sizeof(((struct kvm_irqchip *)0)->chip));

	S(kvm_irq_routing);
	F(kvm_irq_routing, nr); F(kvm_irq_routing, flags);

	S(kvm_irq_routing_entry);
	F(kvm_irq_routing_entry, gsi); F(kvm_irq_routing_entry, type);
	F(kvm_irq_routing_entry, flags); F(kvm_irq_routing_entry, pad);
	F(kvm_irq_routing_entry, u);

	S(kvm_irqfd);
	F(kvm_irqfd, fd); F(kvm_irqfd, gsi); F(kvm_irqfd, flags);
	F(kvm_irqfd, resamplefd); F(kvm_irqfd, pad);

	S(kvm_pit_config);
	F(kvm_pit_config, flags); F(kvm_pit_config, pad);

	S(kvm_ioeventfd);
	F(kvm_ioeventfd, datamatch); F(kvm_ioeventfd, addr); F(kvm_ioeventfd, len);
	F(kvm_ioeventfd, fd); F(kvm_ioeventfd, flags); F(kvm_ioeventfd, pad);

	S(kvm_enable_cap);
	F(kvm_enable_cap, cap); F(kvm_enable_cap, flags); F(kvm_enable_cap, args);
	F(kvm_enable_cap, pad);

	S(kvm_msi);
	F(kvm_msi, address_lo); F(kvm_msi, address_hi); F(kvm_msi, data);
	F(kvm_msi, flags); F(kvm_msi, devid); F(kvm_msi, pad);

	S(kvm_msr_list);
	F(kvm_msr_list, nmsrs);

	S(kvm_msrs);
	F(kvm_msrs, nmsrs); F(kvm_msrs, pad);

	S(kvm_cpuid2);
	F(kvm_cpuid2, nent); F(kvm_cpuid2, padding);

	S(kvm_mp_state);
	F(kvm_mp_state, mp_state);
}

static void run(void)
{
	S(kvm_run);
	F(kvm_run, request_interrupt_window); F(kvm_run, immediate_exit);
	F(kvm_run, padding1); F(kvm_run, exit_reason);
	F(kvm_run, ready_for_interrupt_injection); F(kvm_run, if_flag);
	F(kvm_run, flags); F(kvm_run, cr8); F(kvm_run, apic_base);
	F(kvm_run, padding); F(kvm_run, kvm_valid_regs); F(kvm_run, kvm_dirty_regs);
	F(kvm_run, s);

	UF(hw, hardware_exit_reason);
	UF(fail_entry, hardware_entry_failure_reason); UF(fail_entry, cpu);
	UF(ex, exception); UF(ex, error_code);
	UF(io, direction); UF(io, size); UF(io, port); UF(io, count); UF(io, data_offset);
	UF(debug.arch, exception); UF(debug.arch, pad); UF(debug.arch, pc);
	UF(debug.arch, dr6); UF(debug.arch, dr7);
	UF(mmio, phys_addr); UF(mmio, data); UF(mmio, len); UF(mmio, is_write);
	UF(internal, suberror); UF(internal, ndata); UF(internal, data);
	UF(system_event, type); UF(system_event, ndata); UF(system_event, data);
	UF(eoi, vector);
	UF(msr, error); UF(msr, pad); UF(msr, reason); UF(msr, index); UF(msr, data);
}

static void requests(void)
{
	R(KVM_GET_API_VERSION); R(KVM_CREATE_VM); R(KVM_GET_MSR_INDEX_LIST);
	R(KVM_CHECK_EXTENSION); R(KVM_GET_VCPU_MMAP_SIZE); R(KVM_GET_SUPPORTED_CPUID);

	R(KVM_CREATE_VCPU); R(KVM_GET_DIRTY_LOG); R(KVM_SET_USER_MEMORY_REGION);
	R(KVM_SET_TSS_ADDR); R(KVM_SET_IDENTITY_MAP_ADDR); R(KVM_CREATE_IRQCHIP);
	R(KVM_IRQ_LINE); R(KVM_GET_IRQCHIP); R(KVM_SET_IRQCHIP); R(KVM_SET_GSI_ROUTING);
	R(KVM_IRQFD); R(KVM_CREATE_PIT2); R(KVM_IOEVENTFD); R(KVM_SET_CLOCK);
	R(KVM_GET_CLOCK); R(KVM_GET_PIT2); R(KVM_SET_PIT2); R(KVM_ENABLE_CAP);
	R(KVM_SIGNAL_MSI);

	R(KVM_RUN); R(KVM_GET_REGS); R(KVM_SET_REGS); R(KVM_GET_SREGS); R(KVM_SET_SREGS);
	R(KVM_TRANSLATE); R(KVM_GET_MSRS); R(KVM_SET_MSRS); R(KVM_GET_FPU); R(KVM_SET_FPU);
	R(KVM_GET_LAPIC); R(KVM_SET_LAPIC); R(KVM_SET_CPUID2); R(KVM_GET_CPUID2);
	R(KVM_GET_MP_STATE); R(KVM_SET_MP_STATE); R(KVM_NMI); R(KVM_SET_GUEST_DEBUG);
	R(KVM_GET_VCPU_EVENTS); R(KVM_SET_VCPU_EVENTS); R(KVM_GET_DEBUGREGS);
	R(KVM_SET_DEBUGREGS); R(KVM_SET_TSC_KHZ); R(KVM_GET_TSC_KHZ); R(KVM_GET_XSAVE);
	R(KVM_SET_XSAVE); R(KVM_GET_XCRS); R(KVM_SET_XCRS); R(KVM_KVMCLOCK_CTRL);
}

static void constants(void)
{
	C(KVM_API_VERSION);
	C(KVM_IRQFD_FLAG_DEASSIGN);
	C(KVM_IOEVENTFD_FLAG_DATAMATCH); C(KVM_IOEVENTFD_FLAG_PIO);
	C(KVM_IOEVENTFD_FLAG_DEASSIGN);
	C(KVM_PIT_SPEAKER_DUMMY);
	C(KVM_IRQ_ROUTING_IRQCHIP); C(KVM_IRQ_ROUTING_MSI);
	C(KVM_EXIT_IO_IN); C(KVM_EXIT_IO_OUT);
	C(KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
	C(KVM_MEM_LOG_DIRTY_PAGES); C(KVM_MEM_READONLY);
	C(KVM_IRQCHIP_PIC_MASTER); C(KVM_IRQCHIP_PIC_SLAVE); C(KVM_IRQCHIP_IOAPIC);
	C(KVM_MP_STATE_RUNNABLE); C(KVM_MP_STATE_UNINITIALIZED);
	C(KVM_MP_STATE_INIT_RECEIVED); C(KVM_MP_STATE_HALTED); C(KVM_MP_STATE_SIPI_RECEIVED);
	C(KVM_CLOCK_TSC_STABLE); C(KVM_CLOCK_REALTIME); C(KVM_CLOCK_HOST_TSC);
	C(KVM_GUESTDBG_ENABLE); C(KVM_GUESTDBG_SINGLESTEP);
	C(KVM_GUESTDBG_USE_SW_BP); C(KVM_GUESTDBG_USE_HW_BP);

	C(KVM_EXIT_UNKNOWN); C(KVM_EXIT_EXCEPTION); C(KVM_EXIT_IO); C(KVM_EXIT_DEBUG);
	C(KVM_EXIT_HLT); C(KVM_EXIT_MMIO); C(KVM_EXIT_IRQ_WINDOW_OPEN);
	C(KVM_EXIT_SHUTDOWN); C(KVM_EXIT_FAIL_ENTRY); C(KVM_EXIT_INTR);
	C(KVM_EXIT_INTERNAL_ERROR); C(KVM_EXIT_SYSTEM_EVENT); C(KVM_EXIT_IOAPIC_EOI);
	C(KVM_EXIT_X86_RDMSR); C(KVM_EXIT_X86_WRMSR); C(KVM_EXIT_DIRTY_RING_FULL);

	C(KVM_CAP_IRQCHIP); C(KVM_CAP_USER_MEMORY); C(KVM_CAP_SET_TSS_ADDR);
	C(KVM_CAP_EXT_CPUID); C(KVM_CAP_NR_VCPUS); C(KVM_CAP_NR_MEMSLOTS);
	C(KVM_CAP_MP_STATE); C(KVM_CAP_IRQ_ROUTING); C(KVM_CAP_IRQFD); C(KVM_CAP_PIT2);
	C(KVM_CAP_IOEVENTFD); C(KVM_CAP_SET_IDENTITY_MAP_ADDR); C(KVM_CAP_ADJUST_CLOCK);
	C(KVM_CAP_VCPU_EVENTS); C(KVM_CAP_DEBUGREGS); C(KVM_CAP_XSAVE); C(KVM_CAP_XCRS);
	C(KVM_CAP_TSC_CONTROL); C(KVM_CAP_GET_TSC_KHZ); C(KVM_CAP_MAX_VCPUS);
	C(KVM_CAP_TSC_DEADLINE_TIMER); C(KVM_CAP_SIGNAL_MSI); C(KVM_CAP_READONLY_MEM);
	C(KVM_CAP_SPLIT_IRQCHIP); C(KVM_CAP_MAX_VCPU_ID); C(KVM_CAP_X2APIC_API);
	C(KVM_CAP_IMMEDIATE_EXIT); C(KVM_CAP_X86_DISABLE_EXITS);
	C(KVM_CAP_X86_USER_SPACE_MSR); C(KVM_CAP_DIRTY_LOG_RING); C(KVM_CAP_XSAVE2);
}

int main(void)
{
	state();
	requests_structs();
	run();
	requests();
	constants();
	return 0;
}
