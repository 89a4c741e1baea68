// Package shell is the default image's /bin/sh: a POSIX shell with the common
// Bash additions, over the parser and the expansions of mvdan.cc/sh/v3 (those
// of u-root's gosh).
//
// What it adds over that module's own interpreter is the process model. A
// pipeline's members, background lists, subshells and external commands are
// processes with kernel pipes, so that $!, kill, wait, exec, SIGPIPE, signal
// traps and descriptors above 2 mean what POSIX says.
//
// Go cannot fork. A subshell is therefore a fresh process of the same binary
// that receives the shell's state (variables, functions, options, parameters)
// and the text of the commands through a descriptor: see subshell.go. A plain
// external command never needs one, and a command substitution or pipeline
// member that is a builtin without side effects is computed in place.
//
// Descriptors are virtual: [Shell] keeps a table from shell descriptor to
// kernel descriptor, and a child gets them in place when it starts. The Go
// runtime's own descriptors thus cannot collide with "exec 3>file".
//
// One goroutine runs the shell. Each child has a goroutine that waits for it.
//
// Left out: history expansion, select, coproc, zsh and mksh syntax.
//
//	os.Exit(shell.Main([]string{"sh", "-c", "echo hello"}))
package shell
