// Package wire is the protocol between kvmrig on the host and kvmrig as the
// init process of L1, the emulated machine. It knows bytes only: no QEMU, no
// process, no terminal, so that its tests run anywhere.
//
// One byte stream (a virtio-console port, or a warm rig's unix socket) carries
// frames of every command that runs in L1:
//
//	 0        1         2          4            8           12
//	+--------+---------+----------+------------+-----------+---------- - -
//	| kind   | stream  | 0        | command    | length    | payload
//	+--------+---------+----------+------------+-----------+---------- - -
//
// All numbers are little-endian. A command has three streams (stdin, stdout,
// stderr). Each is flow-controlled by credit: its sender may have at most
// Window bytes under way that the receiver's consumer has not read yet, so the
// goroutine that reads frames never waits for a slow consumer, one stream never
// stalls another, and no buffer grows without bound.
//
//	conn := wire.NewConn(port)
//	conn.SendJSON(wire.KindStart, 1, wire.Spec{Args: wire.Bytes("true")})
//	for {
//		f, err := conn.Receive() // f.Payload is valid until the next Receive
//		…
//	}
//
// Owners: the goroutine that calls Receive owns the reading half. Send may be
// called from any goroutine; frames are written whole.
package wire
