package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newDoctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Find out whether sandboxes can run here",
		Long: "Doctor checks everything that sandboxes need of this host. Each failure comes\n" +
			"with its remedy. The exit status is 0 if sandboxes can run, 1 if not.",
		Example: "  sandpit doctor",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !printChecks(os.Stdout, hasColour(os.Stdout), sandbox.Diagnose(cmd.Context())) {
				return exitStatus(1)
			}
			return nil
		},
	}
}

// printChecks reports whether none failed.
func printChecks(w io.Writer, colours bool, checks []sandbox.Check) (good bool) {
	good = true
	mark := func(word string, c colour) string {
		if colours {
			word = c.paint(word)
		}
		return word
	}
	for _, c := range checks {
		switch {
		case c.Err == nil:
			fmt.Fprintf(w, "%s    %s: %s\n", mark("ok", green), c.Name, c.Detail)
			continue
		case c.Warning:
			fmt.Fprintf(w, "%s  %s: %v\n", mark("warn", yellow), c.Name, c.Err)
		default:
			good = false
			fmt.Fprintf(w, "%s  %s: %v\n", mark("FAIL", red), c.Name, c.Err)
		}
		if c.Remedy != "" {
			fmt.Fprintf(w, "      remedy: %s\n", c.Remedy)
		}
	}
	if good {
		fmt.Fprintln(w, "sandboxes can run here")
	} else {
		fmt.Fprintln(w, "sandboxes cannot run here")
	}
	return good
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of sandpit and its parts",
		Example: "  sandpit version\n  sandpit --version",
		Args:    cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			v := sandbox.Version()
			fmt.Printf("sandpit %s\nkernel  %s\ngo      %s\n", v.Sandpit, v.Kernel, v.Go)
		},
	}
}

// printBoot prints where the time of a boot went.
func printBoot(w io.Writer, b sandbox.Boot) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, p := range b.Phases {
		fmt.Fprintf(t, "%.2f ms\t %s\t\n", float64(p.Duration)/float64(time.Millisecond), p.Name)
	}
	t.Flush()
	kinds := make([]string, 0, len(b.Exits))
	for k := range b.Exits {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		fmt.Fprintf(w, "%8d VM exits: %s\n", b.Exits[k], k)
	}
}
