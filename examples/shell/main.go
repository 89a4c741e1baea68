// Command shell boots the bundled kernel with a disk and a console, and leaves
// you at a shell prompt: a whole machine without an agent, a monitor or a
// sandbox around it. Leave it with "exit".
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/term"

	"github.com/sandpit-vm/sandpit/guest/defaultroot"
	"github.com/sandpit-vm/sandpit/kernel"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/vmm"
)

// cmdline: the root is the first virtio disk, and the console is virtio's too.
// The kernel's first process is the shell. Its messages, should it panic, go to
// the serial port, where the machine looks for them.
const cmdline = "root=/dev/vda ro rootfstype=erofs init=/bin/sh console=hvc0 " +
	"quiet loglevel=1 panic=-1 reboot=k tsc=reliable no_timer_check earlyprintk=serial,ttyS0,115200,keep 8250.nr_uarts=0"

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		// The guest's kernel echoes and edits, so ours must not.
		state, err := term.MakeRaw(fd)
		if err != nil {
			log.Fatal(err)
		}
		defer term.Restore(fd, state)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		log.Fatal(err)
	}
	reason, err := run(ctx, filepath.Join(cache, "sandpit-shell"), os.Stdin, os.Stdout)
	fmt.Print(reason, err, "\r\n")
}

// run boots to a shell on in and out. The embedded kernel and root file system
// are unpacked to the directory cache, once.
func run(ctx context.Context, cache string, in io.Reader, out io.Writer) (vmm.Reason, error) {
	vmlinux, err := kernel.Image().Open(cache)
	if err != nil {
		return nil, err
	}
	defer vmlinux.Close()
	image, err := defaultroot.Image().Open(cache)
	if err != nil {
		return nil, err
	}
	defer image.Close()

	disk, err := virtio.NewFileBackend(image, true)
	if err != nil {
		return nil, err
	}
	root := virtio.NewBlk(virtio.BlkConfig{Backend: disk, ReadOnly: true, ID: "root"})
	console := virtio.NewConsole(in, out, virtio.ConsoleOptions{})
	defer console.Close()
	m, err := vmm.New(vmm.Config{
		Memory:  256 << 20,
		Kernel:  vmlinux,
		Cmdline: cmdline,
		Virtio: []vmm.VirtioDevice{
			{Name: "root", Device: root},
			{Name: "console", Device: console},
			{Name: "rng", Device: virtio.NewRNG(rand.Reader)},
		},
	})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.Run(ctx)
}
