package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// runFlags are the flags of sandpit run.
type runFlags struct {
	configFlags
	execFlags
	name   string
	remove bool
	phases bool
}

func newRun() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] [IMAGE] [-- COMMAND [ARG…]]",
		Short: "Run a command in a new sandbox",
		Long: "Run boots a sandbox, runs the command in it and ends it again. Standard input,\n" +
			"output and error are the command's, and so is the exit status; 125 means that\n" +
			"sandpit itself failed, 126 that the command cannot be executed, 127 that there\n" +
			"is none of that name.\n\n" +
			imageHelp +
			"The command follows the image's entrypoint, if it has one; without a command the\n" +
			"image's own runs, or else the shell.\n\n" +
			"A sandbox without a name leaves nothing behind; one with a name can be started\n" +
			"again, until 'sandpit rm' deletes it, unless --rm is given.",
		Example: "  sandpit run -- sh -c 'echo out; echo err >&2; exit 7'\n" +
			"  sandpit run --cpus 2 --memory 1024 -- nproc\n" +
			"  tar c . | sandpit run -- sha256sum\n" +
			"  sandpit run debian:12 -- cat /etc/os-release\n" +
			"  sandpit run ./rootfs -- /bin/sh\n" +
			"  sandpit run -it",
		RunE: func(cmd *cobra.Command, args []string) error {
			image, command, err := splitArgs(cmd.ArgsLenAtDash(), args)
			if err != nil {
				return err
			}
			return f.run(cmd, image, command)
		},
	}
	fl := cmd.Flags()
	// What follows the image is the command's.
	fl.SetInterspersed(false)
	fl.SortFlags = false
	fl.StringVar(&f.name, "name", "", "name of the sandbox (default: a random one)")
	fl.BoolVar(&f.remove, "rm", false, "delete the sandbox at the end")
	f.execFlags.add(fl)
	f.configFlags.add(fl)
	fl.BoolVar(&f.phases, "phases", false, "print where the boot's time went to standard error")
	return cmd
}

// run is the command's whole life.
func (f *runFlags) run(cmd *cobra.Command, image string, args []string) error {
	ctx := cmd.Context()
	if err := f.execFlags.check(); err != nil {
		return err
	}
	cfg, err := f.config(cmd.Flags(), image)
	if err != nil {
		return err
	}
	cfg.Ephemeral = f.remove || f.name == ""
	if f.name == "" {
		f.name = "run-" + strings.ToLower(rand.Text()[:12])
	}
	sb, err := f.create(ctx, f.name, cfg, sandbox.Create)
	if err != nil {
		return err
	}
	if f.phases {
		printBoot(os.Stderr, sb.Boot())
	}
	err = f.exec(ctx, sb.MainCommand(ctx, args...))
	return errors.Join(err, end(sb))
}

// endTimeout bounds the end of a sandbox whose command has ended.
const endTimeout = 30 * time.Second

// end ends the sandbox. An ephemeral one is switched off, for nobody will see
// what it would write back, unless it writes to a disk image of the user's.
func end(sb *sandbox.Sandbox) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	cfg := sb.Config()
	disk, isDisk := cfg.Root.(sandbox.Disk)
	if cfg.Ephemeral && (!isDisk || disk.ReadOnly) {
		return sb.Kill(ctx)
	}
	_, err := sb.StopAndWait(ctx)
	return err
}
