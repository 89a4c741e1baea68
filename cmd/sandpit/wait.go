package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newWait() *cobra.Command {
	return &cobra.Command{
		Use:   "wait NAME…",
		Short: "Wait until sandboxes have ended, and print their exit codes",
		Long: "Wait waits until each sandbox has ended and prints its exit code on a line of\n" +
			"its own, in the order of the names: 0 after an orderly end, whatever the reason;\n" +
			"137 if it was killed; 1 if it crashed; else the code that the guest shut down\n" +
			"with. 'sandpit inspect' has the reason. Wait's own exit status is 0.",
		Example: "  sandpit wait build\n  sandpit drain build && sandpit wait build",
		Args:    someNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			codes := make([]int, len(names))
			// All at once: of one that is deleted when it ends, nothing is left
			// to ask later.
			return inOrder(len(names), len(names), func(i int) error {
				h, err := sandbox.Get(cmd.Context(), names[i])
				if err != nil {
					return err
				}
				status, err := h.Wait(cmd.Context())
				codes[i] = exitCode(status)
				return err
			}, func(i int) { fmt.Println(codes[i]) }).orNil()
		},
	}
}

// exitCode is how a sandbox ended as one number.
func exitCode(s sandbox.ExitStatus) int {
	switch {
	case s.Reason == "killed":
		return 128 + 9
	case s.Code == 0 && !s.Success:
		return 1
	}
	return s.Code
}

func newDrain() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Let sandboxes finish what they do, and stop",
		Long: "Drain makes sandboxes refuse new commands, terminals and file operations. What\n" +
			"runs in them goes on; when the last command has ended, they stop.",
		Example: "  sandpit drain build\n  sandpit drain --wait --label team=ci",
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until they have stopped")
	return forEach{cmd: cmd, pick: runs, atOnce: atOnce,
		do: withHandle(func(ctx context.Context, h *sandbox.Handle) error {
			err := h.Drain(ctx)
			if err == nil && wait {
				_, err = h.Wait(ctx)
			}
			return err
		}),
	}.command()
}

func newTouch() *cobra.Command {
	return forEach{
		cmd: &cobra.Command{
			Use:   "touch",
			Short: "Begin the idle timeout of sandboxes anew",
			Long: "Touch tells sandboxes that they are still wanted: the time of --idle-timeout\n" +
				"begins anew. Commands, terminals and file operations do so by themselves.",
			Example: "  sandpit touch build\n  sandpit touch --all",
		},
		pick: runs, atOnce: atOnce,
		do: withHandle(func(ctx context.Context, h *sandbox.Handle) error { return h.Touch(ctx) }),
	}.command()
}
