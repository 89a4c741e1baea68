package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newList() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the sandboxes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			handles, err := sandbox.List(cmd.Context())
			w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
			if !quiet {
				fmt.Fprintln(w, "NAME\tSTATUS\tCREATED")
			}
			for _, h := range handles {
				if quiet {
					fmt.Fprintln(w, h.Name())
					continue
				}
				created := "-"
				if t := h.CreatedAt(); !t.IsZero() {
					created = t.Local().Format(time.DateTime)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", h.Name(), h.Status(), created)
			}
			return errors.Join(err, w.Flush())
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	return cmd
}

func newStop() *cobra.Command {
	return eachSandbox("stop", "Shut sandboxes down", func(h *sandbox.Handle, ctx context.Context) error {
		_, err := h.StopAndWait(ctx)
		return err
	})
}

func newKill() *cobra.Command {
	return eachSandbox("kill", "Switch sandboxes off", (*sandbox.Handle).Kill)
}

func newRemove() *cobra.Command {
	return eachName("rm", "Delete sandboxes that do not run", func(name string, ctx context.Context) error {
		return sandbox.Remove(ctx, name)
	})
}

// eachSandbox is a command that does one thing to every sandbox it names, and
// reports every failure.
func eachSandbox(use, short string, do func(*sandbox.Handle, context.Context) error) *cobra.Command {
	return eachName(use, short, func(name string, ctx context.Context) error {
		h, err := sandbox.Get(ctx, name)
		if err != nil {
			return err
		}
		return do(h, ctx)
	})
}

// eachName is eachSandbox for what needs the name alone.
func eachName(use, short string, do func(string, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " NAME…",
		Short: short,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			var errs []error
			for _, name := range names {
				if err := do(name, cmd.Context()); err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Println(name)
			}
			return errors.Join(errs...)
		},
	}
}
