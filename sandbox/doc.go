// Package sandbox runs untrusted code in microVMs: each sandbox is a virtual
// machine with a kernel of its own, up in well under a second, held by one
// process and reached through the file system. There is no daemon, nothing to
// install beside the program that imports this package, and no privilege
// needed but access to /dev/kvm.
//
//	sb, err := sandbox.Create(ctx, "demo", sandbox.Config{Memory: 512})
//	if err != nil {
//		return err
//	}
//	defer sb.Stop(ctx)
//	out, err := sb.Command(ctx, "uname", "-sr").Output()
//
// [Create] returns a running [Sandbox] or leaves nothing behind. A [Cmd] is
// used like one of os/exec, an [FS] and its [File] like package os. The root
// file system is an OCI image, a directory, a disk image or the embedded default
// ([Config]); what the guest writes goes to a disk of the sandbox's own, so a
// sandbox that has stopped can be started again ([Start]).
//
// # Processes
//
// A sandbox is held by a monitor: the running program, executed again under
// the name sandpit-monitor. This package's init function takes that process
// over before main begins, so a program that imports this package must not
// expect to be started under that name. A sandbox made by Create ends,
// gracefully, when its creator does.
//
// # Errors
//
// There are three families. A [*ConfigError] is the caller's: it lists
// everything that is wrong at once. An [*Error] is the host's; it names the
// sandbox and the step, and wraps the cause, with the guest console's last
// lines if a boot failed ([*BootError]). What happens to a command in the
// guest is an [*ExitError] or a [*StartError], to a file an [*fs.PathError] or an
// [*os.LinkError].
//
// # Goroutines
//
// A Sandbox owns two, which end with its monitor. A started Cmd owns one for
// each stream it copies, and one that receives; Wait joins them, but for a
// Read of Stdin that nothing can interrupt.
package sandbox
