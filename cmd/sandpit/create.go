package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// imageHelp is the part about IMAGE of the commands that take one.
const imageHelp = "IMAGE is a reference of a registry's image; or, beginning with /, ./ or ../, a\n" +
	"directory or a disk image (.raw, .img, .qcow2). Without one the embedded default\n" +
	"image is used.\n"

// configFlags are the flags that describe a sandbox.
type configFlags struct {
	cfg        sandbox.Config
	memory     sizeMiB
	upper      sizeMiB
	idle       seconds
	max        seconds
	labels     []string
	scripts    []string
	rlimits    []string
	pull       string
	entrypoint string
	registry   registryFlags
	logLevel   string
	later      laterFlags
}

func (f *configFlags) add(fl *pflag.FlagSet) {
	f.memory = sandbox.DefaultMemory
	fl.IntVar(&f.cfg.CPUs, "cpus", sandbox.DefaultCPUs, "`number` of virtual CPUs")
	fl.VarP(&f.memory, "memory", "m", "memory in MiB, or with a unit, such as 2g")
	fl.StringArrayVarP(&f.cfg.Env, "env", "e", nil, "set a variable, `NAME=VALUE`, or pass on this process's, NAME; repeatable")
	fl.StringVarP(&f.cfg.Workdir, "workdir", "w", "", "working `directory` (default: the image's)")
	fl.StringVarP(&f.cfg.User, "user", "u", "", "`user`: name, uid, name:group or uid:gid (default: the image's)")
	fl.StringVar(&f.cfg.Hostname, "hostname", "", "`hostname` of the guest (default: the name)")
	fl.StringVar(&f.cfg.Shell, "shell", "", "shell of the guest, an absolute `path` (default /bin/sh)")
	fl.StringVar(&f.entrypoint, "entrypoint", "", "put this `program` before the command instead of the image's entrypoint; '' is none")
	fl.StringVar(&f.cfg.StopSignal, "stop-signal", "", "`signal` that asks the guest's processes to end (default: the image's, or SIGTERM)")
	fl.StringArrayVarP(&f.labels, "label", "l", nil, "label, `KEY=VALUE`, for you to find the sandbox by; repeatable")
	fl.StringArrayVar(&f.scripts, "script", nil, "`NAME=FILE`: make the file of this host a command NAME of the guest; repeatable")
	fl.StringArrayVar(&f.rlimits, "rlimit", nil, "limit the resources of each command, `NAME=SOFT[:HARD]`, such as nofile=1024 (setrlimit(2)); repeatable")
	fl.Var(&f.idle, "idle-timeout", "stop the sandbox when nothing has run in it for so many seconds, or e.g. 15m (default: never)")
	fl.Var(&f.max, "max-duration", "stop the sandbox after so many seconds, or e.g. 8h (default: never)")
	fl.BoolVar(&f.cfg.CaptureOutput, "capture", false, "keep what commands write, for 'sandpit logs'")
	fl.BoolVar(&f.cfg.Replace, "replace", false, "stop and delete the sandbox that has the name, if there is one")
	fl.Var(&f.upper, "upper-size", "size in MiB, or with a unit, of the disk that takes the writes (default 4096)")
	fl.BoolVar(&f.cfg.UpperTmpfs, "upper-tmpfs", false, "keep the writes in the guest's memory instead")
	fl.StringVar(&f.pull, "pull", string(sandbox.PullIfMissing), "when to ask the registry for the image, a `policy`: always, if-missing or never")
	f.registry.add(fl)
	fl.BoolVarP(&f.registry.quiet, "quiet", "q", false, "no progress of a pull")
	fl.StringVar(&f.cfg.Kernel, "kernel", "", "boot the kernel in this `file` instead of the bundled one")
	fl.StringVar(&f.logLevel, "log-level", "info", "how much the monitor logs, a `level`: error, warn, info, debug or trace")
	f.later.add(fl)
}

var logLevels = map[string]sandbox.LogLevel{
	"error": sandbox.LogError, "warn": sandbox.LogWarn, "info": sandbox.LogInfo, "debug": sandbox.LogDebug, "trace": sandbox.LogTrace,
}

// config is the configuration that the flags describe.
func (f *configFlags) config(fl *pflag.FlagSet, image string) (sandbox.Config, error) {
	cfg := f.cfg
	cfg.Image = image
	if fl.Changed("entrypoint") {
		cfg.Entrypoint = []string{}
		if f.entrypoint != "" {
			cfg.Entrypoint = []string{f.entrypoint}
		}
	}
	// Zero means the default in a Config; on the command line it is a mistake.
	if cfg.CPUs == 0 {
		cfg.CPUs = -1
	}
	cfg.Memory, cfg.UpperSize = int(f.memory), int(f.upper)
	cfg.IdleTimeout, cfg.MaxDuration = time.Duration(f.idle), time.Duration(f.max)
	var err error
	if cfg.Env, err = passEnv(cfg.Env); err != nil {
		return cfg, err
	}
	if cfg.Labels, err = parseLabels(f.labels); err != nil {
		return cfg, err
	}
	if cfg.Scripts, err = parseScripts(f.scripts); err != nil {
		return cfg, err
	}
	if cfg.Rlimits, err = parseRlimits(f.rlimits); err != nil {
		return cfg, err
	}
	level, ok := logLevels[f.logLevel]
	if !ok {
		return cfg, fmt.Errorf("--log-level %q: want error, warn, info, debug or trace", f.logLevel)
	}
	cfg.LogLevel = level
	if err := f.later.apply(&cfg); err != nil {
		return cfg, err
	}
	if cfg.RegistryAuth, err = f.registry.auth(); err != nil {
		return cfg, err
	}
	if cfg.ImageLimits, err = f.registry.limits.limits(); err != nil {
		return cfg, err
	}
	cfg.PullPolicy = sandbox.PullPolicy(f.pull)
	cfg.RegistryInsecure, cfg.RegistryCAFile = f.registry.insecure, f.registry.caFile
	return cfg, nil
}

// create makes the sandbox and shows the pull that this may take.
func (f *configFlags) create(ctx context.Context, name string, cfg sandbox.Config,
	create func(context.Context, string, sandbox.Config) (*sandbox.Sandbox, error)) (*sandbox.Sandbox, error) {
	p := newProgress(f.registry.quiet)
	defer p.end()
	cfg.PullProgress = p.event
	return create(ctx, name, cfg)
}

// passEnv replaces names without a value by this process's variables; one that
// is not set is left out, as docker does.
func passEnv(list []string) ([]string, error) {
	var env []string
	for _, kv := range list {
		if kv == "" {
			return nil, fmt.Errorf("--env: want NAME=VALUE or NAME")
		}
		if !strings.Contains(kv, "=") {
			v, ok := os.LookupEnv(kv)
			if !ok {
				continue
			}
			kv += "=" + v
		}
		env = append(env, kv)
	}
	return env, nil
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

func newCreate() *cobra.Command {
	var f configFlags
	cmd := &cobra.Command{
		Use:   "create [flags] NAME [IMAGE]",
		Short: "Boot a sandbox that goes on by itself",
		Long: "Create boots a sandbox and returns when commands can run in it ('sandpit exec').\n" +
			"It runs until it is stopped.\n\n" + strings.TrimSpace(imageHelp),
		Example: "  sandpit create build debian:12\n" +
			"  sandpit create --cpus 2 --memory 2g --idle-timeout 15m --label team=ci build\n" +
			"  sandpit create --script setup=./setup.sh build debian:12 && sandpit exec build setup",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			image := ""
			if len(args) == 2 {
				image = args[1]
			}
			cfg, err := f.config(cmd.Flags(), image)
			if err != nil {
				return err
			}
			if _, err := f.create(cmd.Context(), args[0], cfg, sandbox.CreateDetached); err != nil {
				return err
			}
			fmt.Println(args[0])
			return nil
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	f.add(fl)
	return cmd
}
