package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// forEach is a command that does one thing to every sandbox that it names.
type forEach struct {
	// cmd has the texts; RunE and Args are filled in.
	cmd *cobra.Command
	// pick, if not nil, adds flags that name sandboxes by what they are, and
	// says which of these the command is for.
	pick func(view) bool
	// atOnce is how many are done at a time; 0 is 1.
	atOnce int
	// do does it; the names of those it is done to are printed.
	do func(ctx context.Context, name string) error
}

// atOnce is for what waits more than it works.
const atOnce = 16

// command completes the command.
func (f forEach) command() *cobra.Command {
	var (
		labels []string
		all    bool
	)
	cmd := f.cmd
	cmd.Use += " NAME…"
	cmd.Args = someNames
	if f.pick != nil {
		cmd.Args = cobra.ArbitraryArgs
		cmd.Flags().StringArrayVar(&labels, "label", nil, "instead of names: those that have the label, KEY or `KEY=VALUE`; repeatable")
		cmd.Flags().BoolVarP(&all, "all", "a", false, "instead of names: all that this can be done to")
	}
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		var failed failures
		if len(labels) > 0 || all {
			if len(names) > 0 {
				return errors.New("want names, --label or --all, not both names and a flag")
			}
			names, failed = f.picked(cmd.Context(), labels)
		} else if err := someNames(cmd, names); err != nil {
			return err
		}
		return append(failed, inOrder(len(names), f.atOnce,
			func(i int) error { return f.do(cmd.Context(), names[i]) },
			func(i int) { fmt.Println(names[i]) })...).orNil()
	}
	return cmd
}

// picked are the names of the sandboxes that have the labels and that the
// command is for.
func (f forEach) picked(ctx context.Context, labels []string) ([]string, failures) {
	m, err := (&matchFlags{labels: labels}).matcher()
	if err != nil {
		return nil, failures{err}
	}
	views, failed := lookAtAll(ctx)
	var names []string
	for _, v := range views {
		if f.pick(v) && m.matches(v) {
			names = append(names, v.Name)
		}
	}
	return names, failed
}

// inOrder does something for n things, atOnce at a time, and calls done, in
// their order, for those it was done for. Every failure is returned.
func inOrder(n, atOnce int, do func(i int) error, done func(i int)) failures {
	errs := make([]chan error, n)
	for i := range errs {
		errs[i] = make(chan error, 1)
	}
	slots := make(chan struct{}, max(atOnce, 1))
	go func() {
		for i := range n {
			slots <- struct{}{}
			go func() {
				errs[i] <- do(i)
				<-slots
			}()
		}
	}()
	var failed failures
	for i := range n {
		if err := <-errs[i]; err != nil {
			failed = append(failed, err)
		} else {
			done(i)
		}
	}
	return failed
}

// someNames is the Args of a command that wants one name or more.
func someNames(cmd *cobra.Command, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("'%s' wants the name of a sandbox, or several\nsee '%s --help'", cmd.CommandPath(), cmd.CommandPath())
	}
	return nil
}

// runs and hasEnded are what a command can be done to.
func runs(v view) bool {
	switch sandbox.Status(v.Status) {
	case sandbox.Starting, sandbox.Running, sandbox.Draining:
		return true
	}
	return false
}

func hasEnded(v view) bool {
	s := sandbox.Status(v.Status)
	return s == sandbox.Stopped || s == sandbox.Crashed
}

// withHandle is for what is done to a handle.
func withHandle(do func(context.Context, *sandbox.Handle) error) func(context.Context, string) error {
	return func(ctx context.Context, name string) error {
		h, err := sandbox.Get(ctx, name)
		if err != nil {
			return err
		}
		return do(ctx, h)
	}
}

func newStart() *cobra.Command {
	return forEach{
		cmd: &cobra.Command{
			Use:   "start",
			Short: "Boot sandboxes that have stopped, with the files they had",
			Long: "Start boots sandboxes that have stopped or crashed, with the configuration they\n" +
				"were created with, the same image, and the files that were written in them.",
			Example: "  sandpit start build\n  sandpit start --label team=ci",
		},
		pick: hasEnded, do: start,
	}.command()
}

func start(ctx context.Context, name string) error {
	_, err := sandbox.StartDetached(ctx, name)
	return err
}

// stopFlags are the flags of everything that stops a sandbox.
type stopFlags struct{ timeout seconds }

func (f *stopFlags) add(cmd *cobra.Command) {
	cmd.Flags().VarP(&f.timeout, "timeout", "t", "kill what has not shut down after this many seconds, or e.g. 1m (default: the guest's processes have 10s, then it is switched off)")
	_ = cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
}

// stop shuts a sandbox down and waits for its end. With --timeout one that
// takes longer is killed.
func (f *stopFlags) stop(cmd *cobra.Command, ctx context.Context, h *sandbox.Handle) error {
	if !cmd.Flags().Changed("timeout") {
		_, err := h.StopAndWait(ctx)
		return err
	}
	patient, cancel := context.WithTimeout(ctx, time.Duration(f.timeout))
	defer cancel()
	_, err := h.StopAndWait(patient)
	if err == nil || patient.Err() == nil || ctx.Err() != nil {
		return err
	}
	return kill(ctx, h)
}

// kill switches a sandbox off and waits until nothing of it is left.
func kill(ctx context.Context, h *sandbox.Handle) error {
	if err := h.Kill(ctx); err != nil {
		return err
	}
	_, err := h.Wait(ctx)
	return err
}

func newStop() *cobra.Command {
	var f stopFlags
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "Shut sandboxes down",
		Long: "Stop asks the guest's processes to end, kills those that do not, writes what is\n" +
			"in memory to the disk, and waits until the sandbox is gone. Its files stay:\n" +
			"'sandpit start' boots it again. One that does not run is left as it is.",
		Example: "  sandpit stop build\n  sandpit stop -t 3 build test\n  sandpit stop --all",
	}
	f.add(cmd)
	return forEach{cmd: cmd, pick: runs, atOnce: atOnce,
		do: withHandle(func(ctx context.Context, h *sandbox.Handle) error { return f.stop(cmd, ctx, h) }),
	}.command()
}

func newKill() *cobra.Command {
	return forEach{
		cmd: &cobra.Command{
			Use:   "kill",
			Short: "Switch sandboxes off",
			Long: "Kill switches the virtual machine off, as if its plug were pulled: what the\n" +
				"guest has not written to its disk is lost. One that does not run is left as it is.",
			Example: "  sandpit kill build\n  sandpit kill --label job=nightly",
		},
		pick: runs, atOnce: atOnce, do: withHandle(kill),
	}.command()
}

func newRestart() *cobra.Command {
	var f stopFlags
	cmd := &cobra.Command{
		Use:   "restart",
		Short: "Stop sandboxes and boot them again, with the files they have",
		Long: "Restart shuts sandboxes down, if they run, and boots them again, as 'sandpit\n" +
			"stop' and 'sandpit start' do. Afterwards they go on by themselves, whoever\n" +
			"started them before.",
		Example: "  sandpit restart build\n  sandpit restart -t 3 --all",
	}
	f.add(cmd)
	return forEach{cmd: cmd, pick: func(v view) bool { return v.Status != statusUnreadable },
		do: withHandle(func(ctx context.Context, h *sandbox.Handle) error {
			cfg, err := h.Config()
			if err != nil {
				return err
			}
			if cfg.Ephemeral {
				return fmt.Errorf("sandbox %s: it is deleted when it stops (--rm), so it cannot be restarted", h.Name())
			}
			if err := f.stop(cmd, ctx, h); err != nil {
				return err
			}
			return start(ctx, h.Name())
		}),
	}.command()
}

func newRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm",
		Aliases: []string{"remove"},
		Short:   "Delete sandboxes that do not run",
		Long: "Rm deletes sandboxes with their files. The images stay in the cache. With --force\n" +
			"a sandbox that runs is killed first, and one that does not exist is no error.",
		Example: "  sandpit rm build\n  sandpit rm -f build test\n  sandpit rm --label job=nightly",
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill those that run")
	return forEach{cmd: cmd, atOnce: atOnce,
		pick: func(v view) bool { return hasEnded(v) || force && runs(v) },
		do: func(ctx context.Context, name string) error {
			err := remove(ctx, name, force)
			if force && errors.Is(err, sandbox.ErrNotFound) {
				fmt.Fprintf(os.Stderr, "sandpit: %s\n", plain(err.Error()))
				return nil
			}
			return err
		},
	}.command()
}

// remove deletes a sandbox; with force, one that runs as well.
func remove(ctx context.Context, name string, force bool) error {
	err := sandbox.Remove(ctx, name)
	if !force || !errors.Is(err, sandbox.ErrRunning) {
		return err
	}
	h, err := sandbox.Get(ctx, name)
	if err != nil {
		return err
	}
	if err := kill(ctx, h); err != nil {
		return err
	}
	err = sandbox.Remove(ctx, name)
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil // an ephemeral one is gone with its machine
	}
	return err
}
