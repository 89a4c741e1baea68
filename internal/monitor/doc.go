// Package monitor is the process that holds one virtual machine, and the way
// to start it and to talk to it.
//
// The monitor is the running program itself, executed again
// (/proc/self/exe with argv[0] = "sandpit-monitor"): an embedder needs no
// second file. [RunIfMonitor], called from an init function of package
// sandbox, turns such a process into the monitor before main begins.
//
//	creator                          monitor                       guest
//	Start ── Spec, descriptors ────▶ vmm.New, Run ───────────────▶ kernel, agent
//	      ◀─ Ready or Failed ─────── Setup over vsock ◀──────────▶
//	Client ── control.sock ────────▶ dial: spliced to vsock ─────▶ exec
//	      ◀─ Ended, lock released ── last state written
//
// Everything the monitor needs is opened by its creator and handed over as a
// descriptor: it opens nothing by path but its own state file and logs, and
// dials nothing. That is what lets it be confined.
//
// The socket over which it was told what to do stays open. When it closes the
// creator is gone, and an attached sandbox is shut down; a detached one goes
// on.
//
// # Goroutines
//
// In the monitor: main (the life of the sandbox), one that runs the machine,
// one that serves the control socket with one per client, one that reads the
// creator's socket, one per accepted agent connection, which is one, and one
// that reads captured output, if any is. In the creator: one that waits for the process.
package monitor
