package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Manage the image cache",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImageList(), newImageInspect(), newImageRemove(), newImagePrune(),
		newImageLoad(), newImageSave(), newImageImport())
	return cmd
}

func newImageList() *cobra.Command {
	var (
		out   output
		quiet bool
	)
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the images",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			images, err := sandbox.Images(cmd.Context())
			if out.json() {
				if images == nil {
					images = []*sandbox.Image{}
				}
				return errors.Join(err, printJSON(images))
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
			if !quiet {
				fmt.Fprintln(w, "IMAGE\tDIGEST\tSIZE\tPULLED")
			}
			for _, im := range images {
				name := plain(im.Ref) // another tool may have written it
				if name == "" {
					name = "<none>"
				}
				if quiet {
					fmt.Fprintln(w, im.Digest)
					continue
				}
				pulled := "-"
				if !im.PulledAt.IsZero() {
					pulled = im.PulledAt.Local().Format(time.DateTime)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, shortDigest(im.Digest), size(im.Size), pulled)
			}
			return errors.Join(err, w.Flush())
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print digests only")
	out.add(cmd.Flags())
	return cmd
}

func newImageInspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect IMAGE…",
		Short: "Print what is known of images, as JSON",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			images := []*sandbox.Image{}
			var errs []error
			for _, name := range names {
				im, err := sandbox.InspectImage(cmd.Context(), name)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				images = append(images, im)
			}
			return errors.Join(append(errs, printJSON(images))...)
		},
	}
}

func newImageRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm IMAGE…",
		Short: "Delete images from the cache",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			var errs []error
			for _, name := range names {
				if _, err := sandbox.RemoveImage(cmd.Context(), name, force); err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Println(name)
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even if a sandbox has the image")
	return cmd
}

func newImagePrune() *cobra.Command {
	var (
		out output
		all bool
	)
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete what no image needs",
		Long: "Prune deletes unfinished downloads and whatever has no name and no sandbox.\n" +
			"With --all it deletes every image that no sandbox, running or not, has.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			pruned, err := sandbox.PruneImages(cmd.Context(), all)
			if err != nil {
				return err
			}
			if out.json() {
				return printJSON(pruned)
			}
			for _, ref := range pruned.Refs {
				fmt.Println(plain(ref))
			}
			fmt.Printf("%s reclaimed\n", size(pruned.Bytes))
			return nil
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "every image that no sandbox has")
	out.add(cmd.Flags())
	return cmd
}

// openInput opens a file, "-" being standard input.
func openInput(name string) (io.ReadCloser, error) {
	if name == "-" {
		if isTerminal(os.Stdin) {
			return nil, errors.New("standard input is a terminal: name a file, or pipe the archive in")
		}
		return io.NopCloser(os.Stdin), nil
	}
	return os.Open(name)
}

func newImageLoad() *cobra.Command {
	var (
		quiet bool
		name  string
	)
	cmd := &cobra.Command{
		Use:   "load ARCHIVE",
		Short: "Read images from an archive (docker save or OCI; - is standard input)",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := openInput(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			p := newProgress(quiet)
			images, err := sandbox.LoadImages(cmd.Context(), in, sandbox.LoadOptions{Name: name, Progress: p.event})
			p.end()
			for _, im := range images {
				fmt.Println(im.Ref, im.Digest)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name the archive's only image so")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return cmd
}

func newImageSave() *cobra.Command {
	var file, format string
	cmd := &cobra.Command{
		Use:   "save IMAGE…",
		Short: "Write images to an archive",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) (err error) {
			if file == "" {
				if isTerminal(os.Stdout) {
					return errors.New("standard output is a terminal: redirect it, or name a file with -o")
				}
				return sandbox.SaveImages(cmd.Context(), os.Stdout, sandbox.ArchiveFormat(format), names...)
			}
			f, err := os.Create(file)
			if err != nil {
				return err
			}
			defer func() {
				err = errors.Join(err, f.Close())
				if err != nil {
					os.Remove(file)
				}
			}()
			return sandbox.SaveImages(cmd.Context(), f, sandbox.ArchiveFormat(format), names...)
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to this file instead of standard output")
	cmd.Flags().StringVar(&format, "format", string(sandbox.FormatDocker), "archive format: docker or oci")
	return cmd
}

func newImageImport() *cobra.Command {
	var (
		o     sandbox.ImportOptions
		quiet bool
	)
	cmd := &cobra.Command{
		Use:   "import ROOTFS.tar NAME[:TAG]",
		Short: "Make an image of a root file system's archive (- is standard input)",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := openInput(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			p := newProgress(quiet)
			o.Progress = p.event
			im, err := sandbox.ImportImage(cmd.Context(), in, args[1], o)
			p.end()
			if err != nil {
				return err
			}
			fmt.Println(im.Ref, im.Digest)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringArrayVarP(&o.Config.Env, "env", "e", nil, "a variable of the image, NAME=VALUE")
	fl.StringVarP(&o.Config.WorkingDir, "workdir", "w", "", "its working directory")
	fl.StringVarP(&o.Config.User, "user", "u", "", "its user")
	fl.StringArrayVar(&o.Config.Entrypoint, "entrypoint", nil, "its entrypoint; repeat it for arguments")
	fl.StringArrayVar(&o.Config.Cmd, "cmd", nil, "its command; repeat it for arguments")
	fl.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return cmd
}
