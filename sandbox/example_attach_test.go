package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// These examples need KVM, and a sandbox named "demo" that runs.

// A terminal of a given size, for a program: for a person Stdin would be
// os.Stdin, in raw mode.
func ExampleAttachOptions() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	term, err := sb.Attach(ctx, sandbox.AttachOptions{
		Args:   []string{"sh", "-c", "stty -onlcr; stty size; exit 4"},
		Size:   sandbox.TTYSize{Rows: 50, Cols: 132},
		Stdout: os.Stdout,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(term.Wait())
	// Output:
	// 50 132
	// exit status 4
}

// A terminal goes on when it is left, and shows what it showed last to whoever
// returns to it.
func ExampleTerminal() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	term, err := sb.Attach(ctx, sandbox.AttachOptions{ID: "build", Args: []string{"sh", "-c", "sleep 0.1; exit 7"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = term.Detach()
	fmt.Println(errors.Is(term.Wait(), sandbox.ErrDetached))

	// Later, in another process perhaps:
	term, err = sb.Reattach(ctx, "build", sandbox.AttachOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	var exit *sandbox.ExitError
	if errors.As(term.Wait(), &exit) {
		fmt.Println(exit.Code)
	}
	// Output:
	// true
	// 7
}

func ExampleExecInfo() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	id, err := sb.Shell(ctx, "sleep 1000").StartDetached()
	if err != nil {
		fmt.Println(err)
		return
	}
	list, err := sb.Execs(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, x := range list {
		if x.ID == id {
			fmt.Printf("%q kept: %v, terminal: %v\n", x.Args, x.Kept, x.TTY)
		}
	}
	// Output: ["/bin/sh" "-c" "sleep 1000"] kept: true, terminal: false
}
