package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newList() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the sandboxes",
		Long: "Ls lists all sandboxes, running or not. One that cannot be read is listed as\n" +
			"unreadable; the reason goes to standard error, and the exit status is 125.",
		Example: "  sandpit ls\n" +
			"  sandpit ls --stopped -q\n" +
			"  sandpit ls --filter label=job=nightly --filter status=crashed\n" +
			"  sandpit ls --format json\n" +
			"  sandpit ls --format '{{.Name}}\\t{{.Image}}'",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.list(cmd) },
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.BoolVar(&f.match.running, "running", false, "only those that run, start or drain")
	fl.BoolVar(&f.match.stopped, "stopped", false, "only those that have stopped or crashed")
	f.add(cmd)
	return cmd
}

func newPs() *cobra.Command {
	var (
		f   listFlags
		all bool
	)
	cmd := &cobra.Command{
		Use:     "ps",
		Short:   "List the sandboxes that run",
		Long:    "Ps lists the sandboxes that run, start or drain: it is 'sandpit ls --running'.",
		Example: "  sandpit ps\n  sandpit ps -aq --filter name='build-*'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.match.running = !all
			return f.list(cmd)
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.BoolVarP(&all, "all", "a", false, "all sandboxes, as 'sandpit ls' lists them")
	f.add(cmd)
	return cmd
}

// listFlags are the flags of ls and ps.
type listFlags struct {
	match matchFlags
	out   output
	quiet bool
}

func (f *listFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	f.match.add(cmd, "f")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "print names only")
	f.out.add(fl)
	completeFormat(cmd, "table", "json")
}

func (f *listFlags) list(cmd *cobra.Command) error {
	if err := f.out.check(); err != nil {
		return err
	}
	m, err := f.match.matcher()
	if err != nil {
		return err
	}
	all, failed := lookAtAll(cmd.Context())
	var views []view
	for _, v := range all {
		if m.matches(v) {
			views = append(views, v)
		}
	}
	switch {
	case f.quiet:
		var names strings.Builder
		for _, v := range views {
			names.WriteString(v.Name + "\n")
		}
		_, err = os.Stdout.WriteString(plain(names.String()))
	case f.out.table():
		err = sandboxTable(views, time.Now()).print()
	default:
		err = printList(&f.out, views)
	}
	if err != nil {
		failed = append(failed, err)
	}
	return failed.orNil()
}

// sandboxTable is the table of ls and ps.
func sandboxTable(views []view, now time.Time) *table {
	t := &table{header: []string{"NAME", "STATUS", "IMAGE", "CPUS", "MEMORY", "CREATED"}, flexible: 2}
	for _, v := range views {
		image, cpus, memory := "(default)", "-", "-"
		if v.Image != "" {
			image = plain(v.Image)
		}
		if v.Error != "" {
			image = "-"
		}
		if v.CPUs > 0 {
			cpus = strconv.Itoa(v.CPUs)
		}
		if v.MemoryMiB > 0 {
			memory = mebibytes(v.MemoryMiB)
		}
		t.add(cell{text: plain(v.Name)}, cell{v.Status, statusColour(v.Status)}, cell{text: image},
			cell{text: cpus}, cell{text: memory}, cell{text: ago(v.CreatedAt, now)})
	}
	return t
}

func statusColour(status string) colour {
	switch status {
	case string(sandbox.Running):
		return green
	case string(sandbox.Starting), string(sandbox.Draining):
		return yellow
	case string(sandbox.Crashed), statusUnreadable:
		return red
	}
	return noColour
}

// mebibytes is a size of memory for people.
func mebibytes(n int) string {
	if n >= 1024 && n%1024 == 0 {
		return fmt.Sprintf("%d GiB", n/1024)
	}
	return fmt.Sprintf("%d MiB", n)
}
