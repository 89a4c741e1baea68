package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newPrune() *cobra.Command {
	var (
		match         matchFlags
		force, images bool
	)
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete all sandboxes that do not run",
		Long: "Prune deletes every sandbox that has stopped or crashed, with its files, after\n" +
			"asking. One that cannot be read stays; 'sandpit rm NAME' deletes it. With\n" +
			"--images it also deletes every image that no sandbox has any more.",
		Example: "  sandpit prune\n  sandpit prune -f --filter until=24h\n  sandpit prune --images --label job=nightly",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			match.stopped = true
			m, err := match.matcher()
			if err != nil {
				return err
			}
			views, failed := lookAtAll(cmd.Context())
			var names []string
			for _, v := range views {
				if m.matches(v) {
					names = append(names, v.Name)
				}
			}
			if !force && (len(names) > 0 || images) {
				if err := confirm(cmd.Context(), names, images); err != nil {
					return err
				}
			}
			deleted, errs := prune(cmd.Context(), names)
			failed = append(failed, errs...)
			fmt.Printf("%s deleted\n", plural(deleted, "sandbox", "sandboxes"))
			if images {
				pruned, err := sandbox.PruneImages(cmd.Context(), true)
				for _, ref := range pruned.Refs {
					fmt.Println(plain(ref))
				}
				if err != nil {
					failed = append(failed, err)
				} else {
					fmt.Printf("%s deleted, %s reclaimed\n", plural(len(pruned.Refs), "image", "images"), size(pruned.Bytes))
				}
			}
			return failed.orNil()
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.BoolVarP(&force, "force", "f", false, "do not ask")
	fl.BoolVar(&images, "images", false, "every image that no sandbox has, too")
	match.add(cmd, "")
	return cmd
}

// prune deletes the sandboxes, prints their names, and returns how many they
// were. One that runs again, or is gone, is left alone.
func prune(ctx context.Context, names []string) (deleted int, failed failures) {
	for _, name := range names {
		switch err := sandbox.Remove(ctx, name); {
		case err == nil:
			fmt.Println(name)
			deleted++
		case errors.Is(err, sandbox.ErrRunning), errors.Is(err, sandbox.ErrNotFound):
		default:
			failed = append(failed, err)
		}
	}
	return deleted, failed
}

// confirm asks whether to delete; nil is yes.
func confirm(ctx context.Context, names []string, images bool) error {
	if !isTerminal(os.Stdin) {
		return errors.New("standard input is no terminal to ask on: -f deletes without asking")
	}
	for _, name := range names {
		fmt.Fprintln(os.Stderr, name)
	}
	what := fmt.Sprintf("Delete %s with all files in them", plural(len(names), "sandbox", "sandboxes"))
	if images {
		what += ", and every image that no sandbox has"
	}
	fmt.Fprintf(os.Stderr, "%s? [y/N] ", what)
	answer := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, 1024)).ReadString('\n')
		if err != nil {
			line = "" // half an answer is none
		}
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case a := <-answer:
		if a == "y" || a == "yes" {
			return nil
		}
	case <-ctx.Done():
		fmt.Fprintln(os.Stderr)
	}
	return errors.New("nothing was deleted")
}

// plural is a number of things.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
