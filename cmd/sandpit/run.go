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

	"github.com/sandpit-vm/sandpit/sandbox"
)

// runFlags are the flags of sandpit run.
type runFlags struct {
	configFlags
	execFlags
	name   string
	remove bool
	detach bool
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
			"again, until 'sandpit rm' deletes it, unless --rm is given.\n\n" +
			"With -d the sandbox and its command go on by themselves, and run prints the name.\n" +
			"The sandbox ends when the command does, with its status ('sandpit wait'), and stays\n" +
			"to be looked at unless --rm is given. 'sandpit logs' has what the command writes;\n" +
			"with -dt it has a terminal instead, which 'sandpit attach' joins. With -it, Ctrl-P\n" +
			"Ctrl-Q leaves the terminal: from then on it is the same.",
		Example: "  sandpit run -- sh -c 'echo out; echo err >&2; exit 7'\n" +
			"  sandpit run --cpus 2 --memory 1024 -- nproc\n" +
			"  tar c . | sandpit run -- sha256sum\n" +
			"  sandpit run debian:12 -- cat /etc/os-release\n" +
			"  sandpit run ./rootfs -- /bin/sh\n" +
			"  sandpit run -it\n" +
			"  sandpit run -d --name web ./site -- httpd -f",
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
	fl.BoolVarP(&f.detach, "detach", "d", false, "print the name and return; the sandbox ends with the command")
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
	if f.detach && f.interactive && !f.tty {
		return errors.New("-d with -i: nobody is left to write to standard input; -dit gives the command a terminal, which 'sandpit attach' joins")
	}
	cfg.Ephemeral = f.remove || f.name == "" && !f.detach
	if f.detach && !f.tty && !cmd.Flags().Changed("capture") {
		cfg.CaptureOutput = true // there is nothing else that has it
	}
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
	c := sb.MainCommand(ctx, args...)
	c.Main = true
	if f.detach {
		c.Timeout = f.timeout
		if err := startDetached(ctx, sb, c, f.tty); err != nil {
			return errors.Join(commandStatus(ctx, err), end(sb), removed(sb))
		}
		_, err := fmt.Println(sb.Name())
		return err
	}
	left, err := f.exec(ctx, sb, c)
	if left != "" && err == nil {
		if err := sb.Detach(); err != nil {
			return err
		}
		sayDetached(sb, left)
		return nil
	}
	return errors.Join(err, end(sb))
}

// removed deletes what is left of a sandbox that has ended.
func removed(sb *sandbox.Sandbox) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if err := sandbox.Remove(ctx, sb.Name()); !errors.Is(err, sandbox.ErrNotFound) {
		return err
	}
	return nil
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
