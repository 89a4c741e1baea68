package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
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
	detachKeys  string
}

func (f *execFlags) add(fl *pflag.FlagSet) {
	fl.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	fl.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input on even if it is a terminal")
	fl.DurationVar(&f.timeout, "timeout", 0, "kill the command after this time (status 124)")
	addDetachKeys(fl, &f.detachKeys)
}

func addDetachKeys(fl *pflag.FlagSet, keys *string) {
	fl.StringVar(keys, "detach-keys", "", "`keys` that leave a terminal (-it) running (default ctrl-p,ctrl-q; none: there are none)")
}

func (f *execFlags) check() error {
	if f.timeout < 0 {
		return fmt.Errorf("--timeout %v: want a positive time", f.timeout)
	}
	return nil
}

// exec runs the command and turns its end into an error with a status. left is
// the ID of its terminal if that was left.
func (f *execFlags) exec(ctx context.Context, sb *sandbox.Sandbox, cmd *sandbox.Cmd) (left string, err error) {
	cmd.Timeout = f.timeout
	if f.tty && f.interactive {
		left, err = interact(ctx, f.detachKeys, func(ctx context.Context, opts sandbox.AttachOptions) (*sandbox.Terminal, error) {
			return sb.Attach(ctx, onTerminal(cmd, opts))
		})
		return left, commandStatus(ctx, err)
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if f.interactive || !isTerminal(os.Stdin) {
		cmd.Stdin = os.Stdin
	}
	if f.tty {
		err = runOnTerminal(cmd)
	} else {
		err = cmd.Run()
	}
	return "", commandStatus(ctx, err)
}

// execAndSay is exec in a sandbox that goes on.
func (f *execFlags) execAndSay(ctx context.Context, sb *sandbox.Sandbox, cmd *sandbox.Cmd) error {
	left, err := f.exec(ctx, sb, cmd)
	if left != "" {
		sayDetached(sb, left)
	}
	return err
}

// onTerminal completes the options with the command.
func onTerminal(cmd *sandbox.Cmd, opts sandbox.AttachOptions) sandbox.AttachOptions {
	opts.ID = strings.ToLower(rand.Text()[:8])
	opts.Args, opts.Env, opts.Dir, opts.User = cmd.Args, terminalEnv(cmd.Env), cmd.Dir, cmd.User
	opts.Rlimits, opts.Timeout, opts.Main = cmd.Rlimits, cmd.Timeout, cmd.Main
	return opts
}

// surroundings are the flags of a command in a sandbox that runs already.
type surroundings struct {
	env  []string
	dir  string
	user string
}

func (s *surroundings) add(fl *pflag.FlagSet) {
	fl.StringArrayVarP(&s.env, "env", "e", nil, "set a variable, NAME=VALUE, or pass on this process's, NAME")
	fl.StringVarP(&s.dir, "workdir", "w", "", "working directory (default: the sandbox's)")
	fl.StringVarP(&s.user, "user", "u", "", "user (default: the sandbox's)")
}

func (s *surroundings) apply(c *sandbox.Cmd) (err error) {
	c.Env, err = passEnv(s.env)
	if s.dir != "" {
		c.Dir = s.dir
	}
	if s.user != "" {
		c.User = s.user
	}
	return err
}

func newExec() *cobra.Command {
	var (
		f      execFlags
		around surroundings
	)
	cmd := &cobra.Command{
		Use:   "exec [flags] NAME [--] COMMAND [ARG…]",
		Short: "Run a command in a running sandbox",
		Long: "Exec runs one more command in a sandbox that runs. Standard input, output and\n" +
			"error are the command's, and so is the exit status, as with 'sandpit run'.\n\n" +
			"A command with -it goes on when its terminal is left, with Ctrl-P Ctrl-Q or\n" +
			"because sandpit ended; 'sandpit attach' returns to it. Any other ends with sandpit.",
		Example: "  sandpit exec -it build -- sh\n  sandpit exec -w /srv build make",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
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
			if err := around.apply(c); err != nil {
				return err
			}
			return f.execAndSay(cmd.Context(), sb, c)
		},
	}
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.SortFlags = false
	f.add(fl)
	around.add(fl)
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
		return exitStatus(exitInterrupted)
	}
	return err
}
