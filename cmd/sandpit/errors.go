package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// failures are errors that have nothing to do with each other: each is said on
// its own.
type failures []error

func (f failures) Error() string { return errors.Join(f...).Error() }

func (f failures) Unwrap() []error { return f }

// orNil is f as an error, or nil if there is none.
func (f failures) orNil() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// report says what went wrong and returns sandpit's exit status.
func report(w io.Writer, err error) int {
	var (
		status exitStatus
		many   failures
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case isClosedPipe(err):
		// Whoever read our output has seen enough.
		return exitFailure
	case errors.As(err, &many):
		for _, e := range many {
			complain(w, e)
		}
	default:
		complain(w, err)
	}
	return exitFailure
}

// complain writes one error and, where there is one, its remedy.
func complain(w io.Writer, err error) {
	fmt.Fprintf(w, "sandpit: %s\n", plain(err.Error()))
	if r := remedy(err); r != "" {
		fmt.Fprintln(w, r)
	}
}

// remedy is what to do about an error of the library, in words of the command
// line, which the library cannot know.
func remedy(err error) string {
	name := "NAME"
	var e *sandbox.Error
	if errors.As(err, &e) && e.Sandbox != "" {
		name = e.Sandbox
	}
	switch {
	case errors.Is(err, sandbox.ErrNotFound):
		return "'sandpit ls' lists the sandboxes that exist"
	case errors.Is(err, sandbox.ErrExists):
		return fmt.Sprintf("take another name, delete it with 'sandpit rm %s', or give --replace", name)
	case errors.Is(err, sandbox.ErrRunning):
		return fmt.Sprintf("'sandpit stop %s' ends it", name)
	case errors.Is(err, sandbox.ErrDraining):
		return fmt.Sprintf("when it has stopped ('sandpit wait %s'), 'sandpit start %s' boots it", name, name)
	case errors.Is(err, sandbox.ErrNotRunning):
		return fmt.Sprintf("'sandpit start %s' boots it, 'sandpit inspect %s' tells how it ended", name, name)
	case e != nil && e.Sandbox != "" && (e.Op == "get" || e.Op == "config"):
		return fmt.Sprintf("its files cannot be read; 'sandpit rm %s' deletes it", name)
	case errors.Is(err, sandbox.ErrNoImage):
		return "'sandpit image ls' lists the images that are in the cache"
	}
	return ""
}

// isClosedPipe knows a write to a standard output that nobody reads any more.
// Usually SIGPIPE ends the process first; not if it was started with that
// signal ignored.
func isClosedPipe(err error) bool {
	var p *fs.PathError
	return errors.As(err, &p) && p.Path == "/dev/stdout" && errors.Is(p.Err, syscall.EPIPE)
}

// noSuchCommand is the Args of a command that has others: what is left over
// was meant to be one of them.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		msg += "; did you mean " + strings.Join(like, " or ") + "?"
	}
	return fmt.Errorf("%s\nsee '%s --help'", msg, cmd.CommandPath())
}
