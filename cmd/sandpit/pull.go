package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// registryFlags are the flags of everything that asks a registry.
type registryFlags struct {
	creds    string
	insecure bool
	caFile   string
	quiet    bool
	limits   limitFlags
}

// limitFlags raise or lower what an image may hold.
type limitFlags struct {
	maxFiles, maxSize int64
}

func (f *limitFlags) add(fl *pflag.FlagSet) {
	fl.Int64Var(&f.maxFiles, "max-image-files", 0, "`number` of files an image may have (default 1000000)")
	fl.Int64Var(&f.maxSize, "max-image-size", 0, "`MiB` an image may have when unpacked (default 65536)")
}

func (f *limitFlags) limits() (sandbox.ImageLimits, error) {
	if f.maxFiles < 0 || f.maxSize < 0 || f.maxSize > 1<<30 {
		return sandbox.ImageLimits{}, errors.New("--max-image-files and --max-image-size: want positive numbers, the size in MiB")
	}
	return sandbox.ImageLimits{Entries: f.maxFiles, Bytes: f.maxSize << 20}, nil
}

func (f *registryFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.creds, "creds", "", "credentials, `USER:PASSWORD` (default: Docker's configuration and its helpers)")
	fl.BoolVar(&f.insecure, "insecure", false, "allow plain HTTP")
	f.limits.add(fl)
	fl.StringVar(&f.caFile, "ca-file", "", "trust the certification authorities of this PEM `file` too")
}

func (f *registryFlags) auth() (*sandbox.RegistryAuth, error) {
	if f.creds == "" {
		return nil, nil
	}
	user, password, ok := strings.Cut(f.creds, ":")
	if !ok || user == "" {
		return nil, errors.New("--creds: want USER:PASSWORD")
	}
	return &sandbox.RegistryAuth{Username: user, Password: password}, nil
}

func newPull() *cobra.Command {
	var (
		f        registryFlags
		out      output
		policy   string
		platform string
	)
	cmd := &cobra.Command{
		Use:   "pull IMAGE…",
		Short: "Bring images from a registry into the cache",
		Long: "Pull asks the registry what each reference means, downloads what is missing\n" +
			"and makes the root file system. It prints the digests.",
		Example: "  sandpit pull debian:12\n  sandpit pull --ca-file ca.pem registry.example:5000/team/app:1.2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			auth, err := f.auth()
			if err != nil {
				return err
			}
			if err := out.check(); err != nil {
				return err
			}
			o := sandbox.PullOptions{Policy: sandbox.PullPolicy(policy), Auth: auth, Insecure: f.insecure, CAFile: f.caFile}
			if o.Limits, err = f.limits.limits(); err != nil {
				return err
			}
			if platform != "" {
				if o.Platform, err = sandbox.ParsePlatform(platform); err != nil {
					return err
				}
			}
			var images []*sandbox.Image
			for _, ref := range refs {
				p := newProgress(f.quiet)
				o.Progress = p.event
				im, err := sandbox.PullImage(cmd.Context(), ref, o)
				p.end()
				if err != nil {
					return err
				}
				if out.table() {
					fmt.Println(im.Digest)
				}
				images = append(images, im)
			}
			if !out.table() {
				return printList(&out, images)
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&policy, "pull", string(sandbox.PullAlways), "when to ask the registry, a `policy`: always, if-missing or never")
	fl.StringVar(&platform, "platform", "", "`OS/ARCHITECTURE[/VARIANT]` (default linux/amd64)")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	f.add(fl)
	out.add(fl)
	return cmd
}
