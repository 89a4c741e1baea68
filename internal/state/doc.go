// Package state keeps sandboxes on disk: one directory each, plain files in
// it, and a lock that says whether the sandbox lives.
//
//	$SANDPIT_HOME/
//	  sandboxes/NAME/
//	    config.json    what the sandbox was created with; written once
//	    state.json     what became of it; replaced atomically
//	    lock           held by the monitor for its whole life
//	    control.sock   the monitor's socket
//	    console.*.log  the guest's serial console (internal/logfile)
//	    output.*.log   what commands wrote, if it is captured
//	    monitor.log    the monitor's own log
//	    root.upper     the disk that takes the guest's writes
//	    root.erofs     the root file system, if it is this sandbox's alone
//	  cache/           decompressed kernels and images, shared by all
//
// A directory comes into being complete: it is filled under a hidden name and
// renamed, so a name is either taken or free. It goes the same way: renamed
// first, then emptied. What a crash leaves under a hidden name, [Home.Sweep]
// removes. A process ID is never trusted to say that something runs: the lock
// is, which the kernel releases when its last holder dies.
package state
