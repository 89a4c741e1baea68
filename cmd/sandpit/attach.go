package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func newAttach() *cobra.Command {
	var (
		keys string
		list bool
		out  output
	)
	cmd := &cobra.Command{
		Use:   "attach [flags] NAME [ID]",
		Short: "Return to a terminal that was left",
		Long: "Attach returns to a terminal of a sandbox that 'sandpit shell', 'exec -it' or 'run\n" +
			"-it' started and that was left: with Ctrl-P Ctrl-Q, by a lost connection or by the\n" +
			"end of sandpit. It shows what the terminal showed last. The exit status is the\n" +
			"command's.\n\n" +
			"The ID can be left out if there is only one terminal. One at a time has a\n" +
			"terminal: whoever was attached is told, and ends. For ten minutes after its\n" +
			"command has ended, its last screen and status can still be had by its ID.",
		Example: "  sandpit attach build\n  sandpit attach --list build\n  sandpit attach build x7k2m9qa",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if err := out.check(); err != nil {
				return err
			}
			sb, err := sandbox.Connect(ctx, args[0])
			if err != nil {
				return err
			}
			if list {
				return listTerminals(ctx, sb, &out)
			}
			id := ""
			if len(args) == 2 {
				id = args[1]
			} else if id, err = onlyTerminal(ctx, sb); err != nil {
				return err
			}
			left, err := interact(ctx, keys, func(ctx context.Context, opts sandbox.AttachOptions) (*sandbox.Terminal, error) {
				return sb.Reattach(ctx, id, opts)
			})
			if errors.Is(err, sandbox.ErrNoTerminal) {
				return fmt.Errorf("sandbox %s has no terminal %s, nor had it lately; 'sandpit attach --list %s' lists those that run", sb.Name(), id, sb.Name())
			}
			if left != "" {
				sayDetached(sb, left)
			}
			return commandStatus(ctx, err)
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.BoolVar(&list, "list", false, "list what there is to return to")
	addDetachKeys(fl, &keys)
	out.add(fl)
	completeFormat(cmd, "table", "json")
	return cmd
}

// terminalView is a command that outlives its caller, for --list.
type terminalView struct {
	ID        string        `json:"id"`
	PID       int           `json:"pid"`
	Command   []string      `json:"command"`
	Terminal  bool          `json:"terminal"`
	Attached  bool          `json:"attached"`
	Running   time.Duration `json:"running_ns"`
	StartedAt time.Time     `json:"started_at"`
}

// terminals are the kept commands of a sandbox.
func terminals(ctx context.Context, sb *sandbox.Sandbox) ([]terminalView, error) {
	execs, err := sb.Execs(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var views []terminalView
	for _, x := range execs {
		if x.Kept {
			views = append(views, terminalView{ID: x.ID, PID: x.PID, Command: x.Args, Terminal: x.TTY, Attached: x.Attached,
				Running: x.Running, StartedAt: now.Add(-x.Running).Round(time.Second)})
		}
	}
	return views, nil
}

func listTerminals(ctx context.Context, sb *sandbox.Sandbox, out *output) error {
	views, err := terminals(ctx, sb)
	if err != nil {
		return err
	}
	if !out.table() {
		return printList(out, views)
	}
	return terminalTable(views, time.Now()).print()
}

func terminalTable(views []terminalView, now time.Time) *table {
	t := &table{header: []string{"ID", "TERMINAL", "ATTACHED", "STARTED", "COMMAND"}, flexible: 4}
	for _, v := range views {
		t.add(cell{text: oneLine(v.ID)}, cell{text: yesNo(v.Terminal)}, cell{text: yesNo(v.Attached)},
			cell{text: ago(v.StartedAt, now)}, cell{text: oneLine(strings.Join(v.Command, " "))})
	}
	return t
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// oneLine is plain text without ends of lines.
func oneLine(s string) string { return plain(strings.NewReplacer("\n", " ", "\t", " ").Replace(s)) }

// onlyTerminal is the ID of the one terminal that there is.
func onlyTerminal(ctx context.Context, sb *sandbox.Sandbox) (string, error) {
	views, err := terminals(ctx, sb)
	if err != nil {
		return "", err
	}
	var with []terminalView
	for _, v := range views {
		if v.Terminal {
			with = append(with, v)
		}
	}
	switch {
	case len(with) == 1:
		return with[0].ID, nil
	case len(with) > 1:
		return "", fmt.Errorf("sandbox %s has %d terminals; give the ID of one:\n%s", sb.Name(), len(with), terminalTable(with, time.Now()).render(0, false))
	case len(views) > 0:
		return "", fmt.Errorf("what runs in sandbox %s has no terminal; 'sandpit logs -f %s' shows what it writes, if that is captured", sb.Name(), sb.Name())
	}
	return "", fmt.Errorf("sandbox %s has no terminal; 'sandpit shell %s' opens one", sb.Name(), sb.Name())
}

// startDetached starts the main command of a sandbox and lets go of both.
func startDetached(ctx context.Context, sb *sandbox.Sandbox, cmd *sandbox.Cmd, tty bool) error {
	if !tty {
		if _, err := cmd.StartDetached(); err != nil {
			return err
		}
		return sb.Detach()
	}
	opts := onTerminal(cmd, sandbox.AttachOptions{})
	if size, ok := terminalSize(int(os.Stdout.Fd())); ok {
		opts.Size = size
	}
	t, err := sb.Attach(ctx, opts)
	if err != nil {
		return err
	}
	if err := sb.Detach(); err != nil {
		return err
	}
	if err := t.Detach(); err != nil {
		return err
	}
	if err := t.Wait(); err != nil && !errors.Is(err, sandbox.ErrDetached) {
		var exit *sandbox.ExitError
		if !errors.As(err, &exit) { // it may well have ended
			return err
		}
	}
	return nil
}
