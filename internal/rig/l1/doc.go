// Package l1 is the inside of the rig: the init process of L1, the emulated
// machine, which mounts the host's root read-only under a writable overlay and
// runs the commands that the host sends over a virtio-console port.
//
//	/lower   the host's root by 9p, read-only
//	/rw      a tmpfs with the overlay's upper and work directories
//	/        the overlay of the two; /proc, /sys, /dev, /run are L1's own
//
// It is the same executable as kvmrig on the host; Main is called when it finds
// itself to be process 1. Each command gets a session, a process group and a
// cgroup of its own; when its first process has ended, what is left in the
// cgroup is killed, so nothing outlives a command.
//
// Owners: the goroutine of Main reads frames and never waits for a command; one
// goroutine per command starts, feeds and awaits it; the reaper's goroutine
// alone calls wait4, for orphans too.
package l1
