// Command sandpit runs commands in microVMs.
//
//	sandpit run -- uname -a
//
// It uses package sandbox and nothing else of this module: what it can do, any
// Go program can.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// Exit statuses, as docker and env(1) have them.
const (
	exitFailure       = 125 // sandpit itself failed
	exitNotExecutable = 126
	exitNotFound      = 127
	exitInterrupted   = 130 // as a shell reports SIGINT
)

// exitStatus is an error that is only a status: everything was said already.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// memoryLimit, in bytes, is where the garbage collector becomes eager.
const memoryLimit = 200 << 20

func main() { os.Exit(run()) }

func run() int {
	logrus.SetOutput(io.Discard) // ttrpc's: a line for each answer that comes late
	if os.Getenv("GOMEMLIMIT") == "" {
		// What a pull may take whatever the image's size; far from it, the
		// limit changes nothing.
		debug.SetMemoryLimit(memoryLimit)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	status := report(os.Stderr, err)
	if status == exitFailure && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	return status
}

// The groups of commands in the help.
const (
	groupSandboxes = "sandboxes"
	groupCommands  = "commands"
	groupImages    = "images"
	groupOther     = "other"
)

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sandpit",
		Short: "Run untrusted code in microVMs",
		Long: "Sandpit runs untrusted code in microVMs: each sandbox is a virtual machine\n" +
			"with a kernel of its own. There is no daemon and nothing else to install.",
		Example: "  sandpit run -- sh -c 'echo hello from $(uname -sr)'\n" +
			"  sandpit run python:3 -- python3 -c 'print(1)'\n" +
			"  sandpit run -it\n" +
			"  sandpit doctor",
		Version:       sandbox.Version().Sandpit,
		Args:          noSuchCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddGroup(
		&cobra.Group{ID: groupSandboxes, Title: "Sandboxes:"},
		&cobra.Group{ID: groupCommands, Title: "In them:"},
		&cobra.Group{ID: groupImages, Title: "Images:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
		}
		root.AddCommand(commands...)
	}
	// A new command goes here, into its group.
	add(groupSandboxes, newCreate(), newStart(), newRestart(), newStop(), newKill(), newRemove(), newPrune())
	add(groupSandboxes, newList(), newPs(), newInspect(), newWait(), newDrain(), newTouch())
	add(groupSandboxes, newLogs(), newMetrics())
	add(groupCommands, newRun())
	add(groupCommands, newExec(), newShell(), newAttach(), newCopy())
	add(groupImages, newPull(), newImage())
	add(groupOther, newTrace(), newDoctor(), newVersion(), newCompletion())
	root.AddCommand(helpTopics()...)
	completeArguments(root)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommandGroupID(groupOther)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nsee '%s --help'", err, cmd.CommandPath())
	})
	return root
}
