/* exitloop pio|mmio N: the least that a C program needs to run a guest which
 * leaves it N times, each time by one write, and then halts. Prints the
 * nanoseconds and the exits. bench/exits.go holds ours. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CHECK(x) do { if ((x) < 0) { perror(#x); exit(1); } } while (0)

int main(int argc, char **argv)
{
	unsigned n = argc == 3 ? strtoul(argv[2], NULL, 0) : 0, mmio = n && !strcmp(argv[1], "mmio");
	/* mov ax, 0x2000; mov ds, ax; mov ecx, n; again: WRITE; dec ecx; jnz again; hlt */
	unsigned char code[] = {
		0xb8, 0x00, 0x20, 0x8e, 0xd8, 0x66, 0xb9, n, n >> 8, n >> 16, n >> 24,
		0xa2, 0x10, 0x00, 0x66, 0x49, 0x75, 0xf9, 0xf4 }; /* mov [0x10], al */
	if (!mmio)
		memcpy(code + 11, (unsigned char[]){ 0xe6, 0x10, 0x90 }, 3); /* out 0x10, al; nop */
	int sys, vm, cpu, size;
	CHECK(sys = open("/dev/kvm", O_RDWR | O_CLOEXEC));
	CHECK(vm = ioctl(sys, KVM_CREATE_VM, 0));
	CHECK(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000));
	unsigned char *mem = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(mem + 0x1000, code, sizeof code);
	struct kvm_userspace_memory_region slot = { .memory_size = 0x10000, .userspace_addr = (unsigned long)mem };
	CHECK(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot));
	CHECK(cpu = ioctl(vm, KVM_CREATE_VCPU, 0));
	CHECK(size = ioctl(sys, KVM_GET_VCPU_MMAP_SIZE, 0));
	struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
	struct kvm_sregs sregs;
	CHECK(ioctl(cpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	CHECK(ioctl(cpu, KVM_SET_SREGS, &sregs));
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	CHECK(ioctl(cpu, KVM_SET_REGS, &regs));

	struct timespec a, b;
	unsigned exits = 0;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (;; exits++) {
		CHECK(ioctl(cpu, KVM_RUN, 0));
		if (run->exit_reason == KVM_EXIT_HLT)
			break;
		if (run->exit_reason != (mmio ? KVM_EXIT_MMIO : KVM_EXIT_IO))
			return fprintf(stderr, "exit %u\n", run->exit_reason), 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%lld %u\n", (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec, exits);
	return exits != n;
}
