package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// execFlags are the flags of everything that runs a command.
type execFlags struct {
	interactive bool
	tty         bool
	timeout     time.Duration
}

func (f *execFlags) add(fl *pflag.FlagSet) {
	fl.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	fl.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input on even if it is a terminal")
	fl.DurationVar(&f.timeout, "timeout", 0, "kill the command after this time (status 124)")
}

func (f *execFlags) check() error {
	if f.timeout < 0 {
		return fmt.Errorf("--timeout %v: want a positive time", f.timeout)
	}
	return nil
}

// exec runs the command and turns its end into an error with a status.
func (f *execFlags) exec(ctx context.Context, cmd *sandbox.Cmd) error {
	cmd.Timeout = f.timeout
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if f.interactive || !isTerminal(os.Stdin) {
		cmd.Stdin = os.Stdin
	}
	var err error
	if f.tty {
		err = runOnTerminal(cmd)
	} else {
		err = cmd.Run()
	}
	return commandStatus(ctx, err)
}

func newExec() *cobra.Command {
	var (
		f    execFlags
		env  []string
		dir  string
		user string
	)
	cmd := &cobra.Command{
		Use:   "exec [flags] NAME [--] COMMAND [ARG…]",
		Short: "Run a command in a running sandbox",
		Long: "Exec runs one more command in a sandbox that runs. Standard input, output and\n" +
			"error are the command's, and so is the exit status, as with 'sandpit run'.",
		Example: "  sandpit exec -it build -- sh\n  sandpit exec -w /srv build make",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			vars, err := passEnv(env)
			if err != nil {
				return err
			}
			sb, err := sandbox.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			line := args[1:]
			if line[0] == "--" {
				line = line[1:]
			}
			if len(line) == 0 {
				return errors.New("there is no command after the --")
			}
			c := sb.Command(cmd.Context(), line[0], line[1:]...)
			c.Env = vars
			if dir != "" {
				c.Dir = dir
			}
			if user != "" {
				c.User = user
			}
			return f.exec(cmd.Context(), c)
		},
	}
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.SortFlags = false
	f.add(fl)
	fl.StringArrayVarP(&env, "env", "e", nil, "set a variable, NAME=VALUE, or pass on this process's, NAME")
	fl.StringVarP(&dir, "workdir", "w", "", "working directory (default: the sandbox's)")
	fl.StringVarP(&user, "user", "u", "", "user (default: the sandbox's)")
	return cmd
}

// commandStatus maps the end of a command to sandpit's exit status. What needs
// saying is said here.
func commandStatus(ctx context.Context, err error) error {
	var (
		exit  *sandbox.ExitError
		start *sandbox.StartError
	)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sandbox.ErrTimeout):
		fmt.Fprintln(os.Stderr, "sandpit: the command was killed: it ran longer than --timeout allows")
		return exitStatus(124)
	case errors.As(err, &exit):
		if errors.Is(err, sandbox.ErrOutOfMemory) {
			fmt.Fprintln(os.Stderr, "sandpit: the command was killed: the sandbox is out of memory (see --memory)")
		}
		return exitStatus(exit.Code)
	case errors.As(err, &start):
		fmt.Fprintf(os.Stderr, "sandpit: %s\n", plain(start.Error()))
		switch start.Reason {
		case sandbox.StartNotFound:
			return exitStatus(exitNotFound)
		case sandbox.StartPermission, sandbox.StartNotExecutable:
			return exitStatus(exitNotExecutable)
		}
		return exitStatus(exitFailure)
	case ctx.Err() != nil:
		return exitStatus(130) // by a signal, as a shell reports SIGINT
	}
	return err
}
