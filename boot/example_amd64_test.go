package boot_test

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

func ExampleLoad() {
	mem, err := guestmem.NewHeap(boot.Ranges(16 << 20)...)
	if err != nil {
		fmt.Println(err)
		return
	}
	kernel := []byte("a shell script, say")
	_, err = boot.Load(mem, boot.Params{Kernel: bytes.NewReader(kernel), KernelSize: int64(len(kernel))})
	fmt.Println(errors.Is(err, boot.ErrNotKernel))
	fmt.Println(err)
	// Output:
	// true
	// boot: kernel: not a kernel: 19 bytes, neither an ELF image nor a bzImage
}

func ExampleMMIODevice() {
	for n := range 4 {
		base, irq := boot.MMIODevice(n)
		fmt.Println(boot.MMIODeviceArg(base, boot.MMIODeviceSize, irq))
	}
	// Output:
	// virtio_mmio.device=4K@0xd0000000:5
	// virtio_mmio.device=4K@0xd0001000:6
	// virtio_mmio.device=4K@0xd0002000:7
	// virtio_mmio.device=4K@0xd0003000:9
}
