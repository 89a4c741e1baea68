package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "image",
		Short:   "Manage the image cache",
		Example: "  sandpit image ls\n  sandpit image prune --all",
		Args:    noSuchCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
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
		Use:     "ls",
		Short:   "List the images",
		Example: "  sandpit image ls\n  sandpit image ls --format '{{.Ref}} {{.Size}}'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			images, err := sandbox.Images(cmd.Context())
			var printErr error
			switch {
			case quiet:
				for _, im := range images {
					fmt.Println(im.Digest)
				}
			case out.table():
				printErr = imageTable(images, time.Now()).print()
			default:
				printErr = printList(&out, images)
			}
			return failures(append(flatten(err), flatten(printErr)...)).orNil()
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print digests only")
	out.add(cmd.Flags())
	completeFormat(cmd, "table", "json")
	return cmd
}

// imageTable is the table of image ls.
func imageTable(images []*sandbox.Image, now time.Time) *table {
	t := &table{header: []string{"IMAGE", "DIGEST", "SIZE", "PULLED"}, flexible: 0}
	for _, im := range images {
		name := plain(im.Ref) // another tool may have written it
		if name == "" {
			name = "<none>"
		}
		t.add(cell{text: name}, cell{text: shortDigest(im.Digest)}, cell{text: size(im.Size)}, cell{text: ago(im.PulledAt, now)})
	}
	return t
}

func newImageInspect() *cobra.Command {
	return &cobra.Command{
		Use:     "inspect IMAGE…",
		Short:   "Print what is known of images, as JSON",
		Example: "  sandpit image inspect debian:12",
		Args:    cobra.MinimumNArgs(1),
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
		Long: "Rm deletes a name from the cache and, with its last name, the image. An image is\n" +
			"named by its reference, or by its digest: sha256: and at least twelve digits. One\n" +
			"that a sandbox has, running or not, is refused without --force.",
		Example: "  sandpit image rm debian:12\n  sandpit image rm -f sha256:0123456789ab",
		Args:    cobra.MinimumNArgs(1),
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
		Use:     "prune",
		Short:   "Delete what no image needs",
		Example: "  sandpit image prune\n  sandpit image prune --all --format json",
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
			if !out.table() {
				return printList(&out, []sandbox.Pruned{pruned})
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
		Use:     "load ARCHIVE",
		Short:   "Read images from an archive (docker save or OCI; - is standard input)",
		Example: "  docker save app:1 | sandpit image load -\n  sandpit image load --name app:2 app.oci.tar",
		Args:    cobra.ExactArgs(1),
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
	cmd.Flags().StringVar(&name, "name", "", "`name` of the archive's only image")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return cmd
}

func newImageSave() *cobra.Command {
	var file, format string
	cmd := &cobra.Command{
		Use:     "save IMAGE…",
		Short:   "Write images to an archive",
		Example: "  sandpit image save -o app.tar app:1\n  sandpit image save app:1 | docker load",
		Args:    cobra.MinimumNArgs(1),
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
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to this `file` instead of standard output")
	cmd.Flags().StringVar(&format, "format", string(sandbox.FormatDocker), "archive `format`: docker or oci")
	return cmd
}

func newImageImport() *cobra.Command {
	var (
		o     sandbox.ImportOptions
		quiet bool
	)
	cmd := &cobra.Command{
		Use:     "import ROOTFS.tar NAME[:TAG]",
		Short:   "Make an image of a root file system's archive (- is standard input)",
		Example: "  sandpit image import rootfs.tar.zst app:1\n  tar c -C rootfs . | sandpit image import --cmd /bin/app - app:1",
		Args:    cobra.ExactArgs(2),
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
	fl.StringArrayVarP(&o.Config.Env, "env", "e", nil, "a variable of the image, `NAME=VALUE`; repeatable")
	fl.StringVarP(&o.Config.WorkingDir, "workdir", "w", "", "its working `directory`")
	fl.StringVarP(&o.Config.User, "user", "u", "", "its `user`")
	fl.StringArrayVar(&o.Config.Entrypoint, "entrypoint", nil, "its entrypoint, a `word`; repeat it for arguments")
	fl.StringArrayVar(&o.Config.Cmd, "cmd", nil, "its command, a `word`; repeat it for arguments")
	fl.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return cmd
}
