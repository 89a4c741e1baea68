package main

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newCompletion() *cobra.Command {
	shells := map[string]func(root *cobra.Command) error{
		"bash": func(root *cobra.Command) error { return root.GenBashCompletionV2(os.Stdout, true) },
		"fish": func(root *cobra.Command) error { return root.GenFishCompletion(os.Stdout, true) },
		"zsh":  func(root *cobra.Command) error { return root.GenZshCompletion(os.Stdout) },
	}
	return &cobra.Command{
		Use:   "completion bash|fish|zsh",
		Short: "Print a script that completes sandpit's command lines",
		Long: "Completion prints a script for a shell. With it the Tab key completes commands,\n" +
			"flags, and the names of sandboxes and images.",
		Example: "  source <(sandpit completion bash)\n" +
			"  sandpit completion bash >/etc/bash_completion.d/sandpit\n" +
			"  sandpit completion zsh >~/.zfunc/_sandpit\n" +
			"  sandpit completion fish >~/.config/fish/completions/sandpit.fish",
		ValidArgs: []string{"bash", "fish", "zsh"},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || shells[args[0]] == nil {
				return errors.New("want the name of a shell: bash, fish or zsh")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return shells[args[0]](cmd.Root()) },
	}
}

// completer completes one word of a command line. It is silent about failures:
// what it prints would end up in the command line.
type completer func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeArguments tells every command how its arguments are completed. One
// that is not listed, and has none of its own, completes to nothing.
func completeArguments(root *cobra.Command) {
	names := map[string]completer{
		"start":    everyName(hasEnded),
		"stop":     everyName(runs),
		"kill":     everyName(runs),
		"drain":    everyName(runs),
		"touch":    everyName(runs),
		"restart":  everyName(anyStatus),
		"wait":     everyName(anyStatus),
		"inspect":  everyName(anyStatus),
		"rm":       everyName(anyStatus),
		"exec":     firstName(runs),
		"shell":    firstName(runs),
		"attach":   firstName(runs),
		"logs":     firstName(anyStatus),
		"metrics":  everyName(runs),
		"cp":       completeCopy,
		"run":      firstImage(0),
		"create":   firstImage(1),
		"pull":     everyImage,
		"image rm": everyImage, "image inspect": everyImage, "image save": everyImage,
		"image load": completeFile, "image import": completeFile,
	}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			walk(c)
		}
		completeFlags(cmd)
		if cmd.ValidArgsFunction != nil || cmd.ValidArgs != nil || cmd.HasSubCommands() {
			return
		}
		complete := names[strings.TrimPrefix(cmd.CommandPath(), root.Name()+" ")]
		if complete == nil {
			complete = completeNothing
		}
		cmd.ValidArgsFunction = complete
	}
	walk(root)
}

// completeFlags is for flags that several commands have.
func completeFlags(cmd *cobra.Command) {
	pulls := []string{string(sandbox.PullIfMissing), string(sandbox.PullAlways), string(sandbox.PullNever)}
	for flag, complete := range map[string]completer{
		"pull":        fixed(pulls...),
		"label":       completeNothing,
		"name":        completeNothing,
		"env":         completeVariable,
		"cpus":        completeNothing,
		"memory":      completeNothing,
		"user":        completeNothing,
		"creds":       completeNothing,
		"stop-signal": fixed("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"),
		"log-level":   fixed("error", "warn", "info", "debug", "trace"),
		"network":     fixed(string(sandbox.NetworkNone), string(sandbox.NetworkPublic), string(sandbox.NetworkAll)),
	} {
		if cmd.Flags().Lookup(flag) != nil {
			// It fails if the command has a completion of its own.
			_ = cmd.RegisterFlagCompletionFunc(flag, complete)
		}
	}
}

func completeNothing(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func completeFile(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}

func fixed(words ...string) completer {
	return completer(cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// completeVariable is for names of this process's environment.
func completeVariable(_ *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var names []string
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, word) {
			names = append(names, name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func anyStatus(view) bool { return true }

// completeNames are the sandboxes that begin with word, are not in args, and
// fit.
func completeNames(cmd *cobra.Command, args []string, word string, fits func(view) bool) []cobra.Completion {
	// Statuses are enough: no configuration is read. What cannot be read is
	// left out.
	handles, _ := sandbox.List(cmd.Context())
	var out []cobra.Completion
	for _, h := range handles {
		v := view{Name: h.Name(), Status: string(h.Status())}
		if strings.HasPrefix(v.Name, word) && !slices.Contains(args, v.Name) && fits(v) {
			out = append(out, cobra.CompletionWithDesc(v.Name, v.Status))
		}
	}
	return out
}

// everyName completes every argument to a sandbox.
func everyName(fits func(view) bool) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return completeNames(cmd, args, word, fits), cobra.ShellCompDirectiveNoFileComp
	}
}

// firstName completes the first argument to a sandbox. What follows is the
// guest's, and not for this host's files to complete.
func firstName(fits func(view) bool) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return completeNames(cmd, nil, word, fits), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeCopy completes NAME: of a path in a sandbox; other paths are the
// shell's to complete.
func completeCopy(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 1 || strings.ContainsAny(word, ":") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if strings.ContainsAny(word, "/.~") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var out []cobra.Completion
	for _, c := range completeNames(cmd, nil, word, runs) {
		name, status, _ := strings.Cut(c, "\t")
		out = append(out, cobra.CompletionWithDesc(name+":", status))
	}
	return out, cobra.ShellCompDirectiveNoSpace
}

// completeImages are the images of the cache that begin with word.
func completeImages(cmd *cobra.Command, word string) []cobra.Completion {
	images, _ := sandbox.Images(cmd.Context())
	var out []cobra.Completion
	for _, im := range images {
		// Another tool may have written the cache.
		if im.Ref != "" && strings.HasPrefix(im.Ref, word) && !strings.ContainsFunc(im.Ref, isControl) {
			out = append(out, cobra.CompletionWithDesc(im.Ref, size(im.Size)))
		}
	}
	return out
}

func everyImage(cmd *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return completeImages(cmd, word), cobra.ShellCompDirectiveNoFileComp
}

// firstImage completes the argument that is an image, which comes after so many
// others.
func firstImage(others int) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch {
		case len(args) != others:
			return nil, cobra.ShellCompDirectiveNoFileComp
		case sandbox.IsLocalImage(word) || word == ".":
			return nil, cobra.ShellCompDirectiveDefault
		}
		return completeImages(cmd, word), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFilter completes the keys of --filter, and statuses.
func completeFilter(_ *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if strings.HasPrefix(word, "status=") {
		var out []cobra.Completion
		for _, s := range statuses {
			if s = "status=" + s; strings.HasPrefix(s, word) {
				out = append(out, s)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	return []cobra.Completion{"name=", "status=", "image=", "label=", "until="},
		cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
