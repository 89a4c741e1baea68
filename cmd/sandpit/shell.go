package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newShell() *cobra.Command {
	var (
		around surroundings
		keys   string
	)
	cmd := &cobra.Command{
		Use:   "shell [flags] NAME [-- COMMAND [ARG…]]",
		Short: "Open a shell in a running sandbox",
		Long: "Shell opens the sandbox's shell, or runs the command, on a terminal. Ctrl-P\n" +
			"Ctrl-Q leaves it running, and so does the end of sandpit, of its connection or of\n" +
			"its own terminal; 'sandpit attach' returns to it.\n\n" +
			"If standard input or output is no terminal, there is none in the sandbox either:\n" +
			"the shell reads its commands from standard input.",
		Example: "  sandpit shell build\n" +
			"  sandpit shell --detach-keys ctrl-] build -- top\n" +
			"  echo 'make && make check' | sandpit shell -w /srv build",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			sb, err := sandbox.Connect(ctx, args[0])
			if err != nil {
				return err
			}
			line := args[1:]
			if len(line) > 0 && line[0] == "--" {
				line = line[1:]
			}
			if len(line) == 0 {
				line = []string{sb.Config().Shell}
			}
			c := sb.Command(ctx, line[0], line[1:]...)
			if err := around.apply(c); err != nil {
				return err
			}
			f := execFlags{interactive: true, tty: isTerminal(os.Stdin) && isTerminal(os.Stdout), detachKeys: keys}
			return f.execAndSay(ctx, sb, c)
		},
	}
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.SortFlags = false
	around.add(fl)
	addDetachKeys(fl, &keys)
	return cmd
}
