package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newInspect() *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "inspect NAME…",
		Short: "Print all that is known of sandboxes, as JSON",
		Long: "Inspect prints an array with an object for each sandbox: its status, its times,\n" +
			"how it ended if it has, its whole configuration, and the digest of its image.\n" +
			"One that does not exist, or cannot be read, does not keep the others back.",
		Example: "  sandpit inspect build\n" +
			"  sandpit inspect --format '{{.Status}} {{.ImageDigest}}' build\n" +
			"  sandpit inspect --format '{{.Exit.Reason}}' build",
		Args: someNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := out.check(); err != nil {
				return err
			}
			var (
				views  []view
				failed failures
			)
			for _, name := range names {
				v, err := inspect(cmd.Context(), name)
				if err != nil {
					failed = append(failed, err)
				}
				if v.Name != "" {
					views = append(views, v)
				}
			}
			if err := printList(&out, views); err != nil {
				failed = append(failed, err)
			}
			return failed.orNil()
		},
	}
	out.addJSON(cmd.Flags())
	completeFormat(cmd, "json")
	return cmd
}

// inspect is look with all there is.
func inspect(ctx context.Context, name string) (view, error) {
	h, err := sandbox.Get(ctx, name)
	if err != nil {
		return view{}, err
	}
	v, err := look(h)
	if err != nil {
		return v, err
	}
	if exit, ended := h.ExitStatus(); ended {
		v.Exit.Console = exit.Console
	}
	config, err := h.ConfigJSON()
	if err != nil {
		return v, err
	}
	v.Config = json.RawMessage(config)
	v.ImageDigest, err = h.ImageDigest()
	return v, err
}
