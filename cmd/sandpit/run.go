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
	name        string
	remove      bool
	interactive bool
	tty         bool
	timeout     time.Duration
	phases      bool
	pull        string
	entrypoint  string
	registry    registryFlags
	progress    progress
	cfg         sandbox.Config
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
			"IMAGE is a reference of a registry's image; or, beginning with /, ./ or ../, a\n" +
			"directory or a disk image (.raw, .img, .qcow2). Without one the embedded default\n" +
			"image runs. The command follows the image's entrypoint, if it has one; without a\n" +
			"command the image's own runs, or else the shell.\n\n" +
			"A sandbox without a name leaves nothing behind; one with a name leaves its\n" +
			"record, which 'sandpit rm' deletes, unless --rm is given.",
		Example: "  sandpit run -- sh -c 'echo out; echo err >&2; exit 7'\n" +
			"  sandpit run --cpus 2 --memory 1024 -- nproc\n" +
			"  tar c . | sandpit run -- sha256sum\n" +
			"  sandpit run debian:12 -- cat /etc/os-release\n" +
			"  sandpit run ./rootfs -- /bin/sh\n" +
			"  sandpit run -it",
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("entrypoint") {
				f.cfg.Entrypoint = []string{}
				if f.entrypoint != "" {
					f.cfg.Entrypoint = []string{f.entrypoint}
				}
			}
			image, command, err := splitArgs(cmd.ArgsLenAtDash(), args)
			if err != nil {
				return err
			}
			f.cfg.Image = image
			return f.run(cmd.Context(), command)
		},
	}
	fl := cmd.Flags()
	// What follows the image is the command's.
	fl.SetInterspersed(false)
	fl.SortFlags = false
	fl.StringVar(&f.name, "name", "", "name of the sandbox (default: a random one)")
	fl.IntVar(&f.cfg.CPUs, "cpus", sandbox.DefaultCPUs, "number of virtual CPUs")
	fl.IntVar(&f.cfg.Memory, "memory", sandbox.DefaultMemory, "memory in MiB")
	fl.StringArrayVarP(&f.cfg.Env, "env", "e", nil, "set a variable, NAME=VALUE, or pass on this process's, NAME")
	fl.StringVarP(&f.cfg.Workdir, "workdir", "w", "", "working directory of the command")
	fl.StringVarP(&f.cfg.User, "user", "u", "", "user: name, uid, name:group or uid:gid")
	fl.StringVar(&f.cfg.Hostname, "hostname", "", "hostname of the guest (default: the name)")
	fl.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	fl.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input on even if it is a terminal")
	fl.DurationVar(&f.timeout, "timeout", 0, "kill the command after this time (status 124)")
	fl.BoolVar(&f.remove, "rm", false, "delete the sandbox's record at the end")
	fl.StringVar(&f.cfg.Kernel, "kernel", "", "boot this kernel instead of the bundled one")
	fl.StringVar(&f.pull, "pull", string(sandbox.PullIfMissing), "when to ask the registry for the image: always, if-missing or never")
	f.registry.add(fl)
	fl.BoolVarP(&f.registry.quiet, "quiet", "q", false, "no progress of a pull")
	fl.StringVar(&f.entrypoint, "entrypoint", "", "put this before the command instead of the image's entrypoint; '' is none")
	fl.IntVar(&f.cfg.UpperSize, "upper-size", 0, "size in MiB of the disk that takes the writes (default 4096)")
	fl.BoolVar(&f.cfg.UpperTmpfs, "upper-tmpfs", false, "keep the writes in the guest's memory instead")
	fl.BoolVar(&f.phases, "phases", false, "print where the boot's time went to standard error")
	return cmd
}

// splitArgs tells the image from the command: [IMAGE] [--] [COMMAND ARG…]. dash
// is how many arguments came before a -- that ended the flags, or -1.
func splitArgs(dash int, args []string) (image string, command []string, err error) {
	if dash == 0 || len(args) == 0 {
		return "", args, nil
	}
	image, command = args[0], args[1:]
	if len(command) > 0 && command[0] == "--" {
		return image, command[1:], nil
	}
	if len(command) > 0 && strings.HasPrefix(command[0], "-") {
		return "", nil, fmt.Errorf("%s: flags go before the image; what is the command's follows a --\nsee 'sandpit run --help'", command[0])
	}
	return image, command, nil
}

// run is the command's whole life.
func (f *runFlags) run(ctx context.Context, args []string) error {
	if err := f.prepare(); err != nil {
		return err
	}
	sb, err := sandbox.Create(ctx, f.name, f.cfg)
	f.progress.end()
	if err != nil {
		return err
	}
	if f.phases {
		printBoot(os.Stderr, sb.Boot())
	}
	err = f.exec(ctx, sb, args)
	return errors.Join(err, f.end(sb))
}

// prepare completes the configuration.
func (f *runFlags) prepare() error {
	if f.timeout < 0 {
		return fmt.Errorf("--timeout %v: want a positive time", f.timeout)
	}
	auth, err := f.registry.auth()
	if err != nil {
		return err
	}
	f.progress = newProgress(f.registry.quiet)
	f.cfg.PullPolicy, f.cfg.RegistryAuth, f.cfg.PullProgress = sandbox.PullPolicy(f.pull), auth, f.progress.event
	f.cfg.RegistryInsecure, f.cfg.RegistryCAFile = f.registry.insecure, f.registry.caFile
	f.cfg.Ephemeral = f.remove || f.name == ""
	if f.name == "" {
		f.name = "run-" + strings.ToLower(rand.Text()[:12])
	}
	// Zero means the default in a Config; on the command line it is a mistake.
	if f.cfg.CPUs == 0 {
		f.cfg.CPUs = -1
	}
	if f.cfg.Memory == 0 {
		f.cfg.Memory = -1
	}
	var env []string
	for _, kv := range f.cfg.Env {
		if !strings.Contains(kv, "=") {
			v, ok := os.LookupEnv(kv)
			if !ok {
				continue // as docker does
			}
			kv += "=" + v
		}
		env = append(env, kv)
	}
	f.cfg.Env = env
	return nil
}

// exec runs the command and turns its end into an error with a status.
func (f *runFlags) exec(ctx context.Context, sb *sandbox.Sandbox, args []string) error {
	cmd := sb.MainCommand(ctx, args...)
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
		fmt.Fprintf(os.Stderr, "sandpit: %v\n", start)
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

// endTimeout bounds the end of a sandbox whose command has ended.
const endTimeout = 30 * time.Second

// end ends the sandbox: an ephemeral one is switched off, for nobody will see
// what it would write back.
func (f *runFlags) end(sb *sandbox.Sandbox) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if f.cfg.Ephemeral {
		return sb.Kill(ctx)
	}
	_, err := sb.StopAndWait(ctx)
	return err
}
