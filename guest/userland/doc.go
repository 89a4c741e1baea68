// Package userland is the set of commands of the embedded default image, in
// one static binary that runs as the command whose name it was called by.
//
//	os.Exit(userland.Main(os.Args)) // argv[0] "…/ls" runs ls
//
// /bin/sh is package shell, over the parser and expansions of u-root's gosh.
// awk is goawk, mount and umount use u-root's mount package, and the rest is
// here: u-root's core commands were tried first and differ from POSIX where
// scripts notice (exit statuses, messages, options; see RATIONALE.md).
//
// A command covers the options that scripts use, with GNU's meaning and exit
// statuses, and refuses an option that it does not know. Commands read and
// write streams of any length with bounded memory, save those that must see
// all of their input (sort, tac, tail without a count from the start).
//
// Each command is a function of a [command]: no package-level state, and
// nothing is set up for a command that does not run, because every command
// line in a script pays for the start of this binary.
package userland
