// Package agent is PID 1 of a sandbox's guest: it mounts the root file system,
// reaps processes, and runs commands for the host.
//
// The package serves the protocol of guest/proto. [Init] is the whole of
// PID 1; [New] makes only the server, for other machines and for tests.
//
// # Promises
//
//   - Every command runs in a session and a cgroup of its own. A timeout, a
//     SIGKILL through the protocol, and the loss of the command's connection
//     end everything in that cgroup, whatever its session and however it
//     treats signals. Background processes of a command that ended by itself
//     stay. A command that is to be kept outlives its connection (kept.go).
//   - A command's exit is reported after its output has reached its end, or
//     half a second after the command ended if descendants keep its pipes
//     open.
//   - No buffer grows with what a command writes or does not read: streams
//     stop when the receiver's credit is used up (see guest/proto).
//   - What a command without a terminal writes is the host's too, if it asked
//     for that: the command waits until the host has it, and the power stays on
//     until the host has the last of it (capture.go).
//   - Every child is reaped.
//   - No file operation waits for anything but a file system: what is neither
//     file nor directory is not opened. What a session did not commit is
//     removed when it ends.
//   - Only the host (vsock CID 2) is served.
//
// A guest's root user can do to its own machine what root can, the agent
// included; the walls are around the machine.
//
// # Owners
//
// The handler of an Exec call owns its command (exec.go), unless the command is
// kept: then a goroutine of its own does (kept.go). The reaper alone
// calls wait4 (reaper.go); the handler of a Session call owns its open files
// (files.go); ttrpc owns the connections, each behind a guard
// that checks its frames (guard.go). Everything that is done once, by [Init],
// runs on the main goroutine or in the Setup call.
//
// The guest needs VIRTIO_VSOCKETS, VIRTIO_BLK, EROFS_FS, OVERLAY_FS, TMPFS,
// DEVTMPFS, UNIX98_PTYS and, for disks that are written, EXT4_FS; CGROUPS for
// the first promise; DEVPORT for power-off codes.
package agent
