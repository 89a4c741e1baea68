package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// copyFlags are the flags of cp.
type copyFlags struct {
	archive bool
	follow  bool
	quiet   bool
}

func newCopy() *cobra.Command {
	var f copyFlags
	cmd := &cobra.Command{
		Use:   "cp [flags] NAME:SRC DST | SRC NAME:DST | NAME:SRC - | - NAME:DST",
		Short: "Copy files into a running sandbox or out of it",
		Long: `Cp copies a file, or a directory with all that is in it, between a running
sandbox and this machine. A name of the sandbox's begins at its root.

If DST is a directory, SRC is copied into it, under its own name; its contents
alone if SRC ends with '/.'. Otherwise the copy is DST itself, whose directory
must exist. Files that exist are replaced, directories added to. Symbolic links
are copied as links. Permissions and times are kept; what is copied belongs to
root in the sandbox, and here to whoever copies.

With - as DST a tar archive of SRC is written to standard output; with - as SRC
a tar archive is read from standard input and unpacked in the directory DST.`,
		Example: "  sandpit cp build.tar box:/tmp/\n" +
			"  sandpit cp box:/var/log ./logs\n" +
			"  sandpit cp src/. box:/work\n" +
			"  sandpit cp box:/etc - | tar -t\n" +
			"  tar -c src | sandpit cp - box:/work",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, dst := parseOperand(args[0]), parseOperand(args[1])
			name := src.sandbox + dst.sandbox
			switch {
			case src.sandbox != "" && dst.sandbox != "":
				return errors.New("both SRC and DST are in sandboxes: copy by way of this machine, or inside one with 'sandpit exec NAME cp'")
			case name == "":
				return errors.New("neither SRC nor DST is in a sandbox: write NAME:PATH for the one that is")
			case src.path == "" || dst.path == "":
				return errors.New("a path is missing after the colon: write NAME:PATH")
			}
			sb, err := sandbox.Connect(cmd.Context(), name)
			if err != nil {
				return err
			}
			defer sb.Close()
			err = f.copy(cmd.Context(), sb.FS(), src, dst)
			if err != nil && cmd.Context().Err() != nil {
				return exitStatus(130)
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.BoolVarP(&f.archive, "archive", "a", false, "keep owners, by number, and setuid and setgid bits")
	fl.BoolVarP(&f.follow, "follow-link", "L", false, "copy what SRC points at if it is a symbolic link itself")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "do not say which devices, pipes and sockets were left out")
	return cmd
}

// operand is one side of a copy.
type operand struct {
	sandbox string // "": this machine
	path    string
}

// parseOperand tells NAME:PATH from a path, as docker does: what begins with a
// slash or a dot is a path.
func parseOperand(s string) operand {
	name, p, ok := strings.Cut(s, ":")
	if !ok || name == "" || name[0] == '.' || strings.ContainsRune(name, '/') {
		return operand{path: s}
	}
	return operand{sandbox: name, path: p}
}

func (f *copyFlags) copy(ctx context.Context, files *sandbox.FS, src, dst operand) error {
	switch {
	case src.sandbox == "" && src.path == "-":
		return f.unpack(ctx, files, os.Stdin, dst.path)
	case dst.sandbox == "" && dst.path == "-":
		if isTerminal(os.Stdout) {
			return errors.New("an archive is nothing for a terminal: redirect standard output, or give a file or directory instead of -")
		}
		return f.pack(ctx, files, src.path, os.Stdout)
	case src.sandbox == "":
		return f.into(ctx, files, src.path, dst.path)
	}
	return f.outOf(ctx, files, src.path, dst.path)
}

func (f *copyFlags) options() sandbox.CopyOptions {
	return sandbox.CopyOptions{KeepOwner: f.archive, KeepSetuid: f.archive, FollowSource: f.follow, Skipped: f.skipped}
}

// skipped says what is left out.
func (f *copyFlags) skipped(name string) {
	if !f.quiet {
		fmt.Fprintf(os.Stderr, "sandpit: %s is left out: neither a file, a directory nor a symbolic link\n", plain(name))
	}
}

// into copies from this machine.
func (f *copyFlags) into(ctx context.Context, files *sandbox.FS, src, dst string) error {
	stat := os.Lstat
	if f.follow || contentsOnly(src) || strings.HasSuffix(src, "/") {
		stat = os.Stat
	}
	info, err := stat(src)
	if err != nil {
		return err
	}
	target, err := destination(src, dst, info.IsDir(), func(name string) (fs.FileInfo, error) { return files.Stat(ctx, name) })
	if err != nil {
		return err
	}
	return files.CopyFromHost(ctx, filepath.Clean(src), target, f.optionsFor(src))
}

// outOf copies to this machine.
func (f *copyFlags) outOf(ctx context.Context, files *sandbox.FS, src, dst string) error {
	stat := files.Lstat
	if f.follow || contentsOnly(src) || strings.HasSuffix(src, "/") {
		stat = files.Stat
	}
	info, err := stat(ctx, src)
	if err != nil {
		return err
	}
	target, err := destination(path.Join("/", src)+suffix(src), dst, info.IsDir(), os.Stat)
	if err != nil {
		return err
	}
	return files.CopyToHost(ctx, path.Join("/", src), target, f.optionsFor(src))
}

// optionsFor follows a source that its name says is a directory.
func (f *copyFlags) optionsFor(src string) sandbox.CopyOptions {
	opt := f.options()
	opt.FollowSource = opt.FollowSource || contentsOnly(src) || strings.HasSuffix(src, "/")
	return opt
}

// contentsOnly: of the directory its contents are meant.
func contentsOnly(src string) bool { return src == "." || strings.HasSuffix(src, "/.") || src == "/" }

// suffix keeps what path.Join takes away.
func suffix(src string) string {
	if contentsOnly(src) {
		return "/."
	}
	return ""
}

// destination is what the copy is to be called exactly.
func destination(src, dst string, srcIsDir bool, stat func(string) (fs.FileInfo, error)) (string, error) {
	info, err := stat(dst)
	switch {
	case err == nil && info.IsDir():
		if srcIsDir && contentsOnly(src) {
			return dst, nil
		}
		base := filepath.Base(filepath.Clean(src))
		if base == ".." || base == "." || base == "/" {
			// It has a name elsewhere; here it has none.
			return "", fmt.Errorf("%s has no name to copy it under: add /. to copy what is in it", src)
		}
		return strings.TrimSuffix(dst, "/") + "/" + base, nil
	case err == nil && srcIsDir:
		return "", fmt.Errorf("%s is a directory, and %s is not", src, dst)
	case err == nil:
		return dst, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	case !srcIsDir && strings.HasSuffix(dst, "/"):
		return "", fmt.Errorf("there is no directory %s: make it first", dst)
	}
	return strings.TrimRight(dst, "/"), nil
}
