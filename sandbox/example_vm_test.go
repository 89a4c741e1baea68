package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// The examples of this file need KVM. Those that only use a sandbox connect to
// one named "demo" that runs already.

func Example() {
	ctx := context.Background()
	sb, err := sandbox.Create(ctx, "first", sandbox.Config{Memory: 256, Ephemeral: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer sb.Close()
	out, err := sb.Command(ctx, "sh", "-c", "echo hello from $(hostname)").Output()
	fmt.Printf("%s%v\n", out, err)
	// Output:
	// hello from first
	// <nil>
}

func ExampleSandbox() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close() // lets go; the sandbox goes on
	out, err := sb.Shell(ctx, "echo $((6 * 7))").Output()
	fmt.Printf("%s%v %v\n", out, err, sb.OwnsLifecycle())
	// Output:
	// 42
	// <nil> false
}

func ExampleCmd() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	cmd := sb.Command(ctx, "sh", "-c", `tr a-z A-Z; echo "from $WHO"`)
	cmd.Env = []string{"WHO=the guest"}
	cmd.Stdin = strings.NewReader("shout\n")
	cmd.Stdout = os.Stdout
	cmd.Timeout = time.Minute
	fmt.Println(cmd.Run())
	// Output:
	// SHOUT
	// from the guest
	// <nil>
}

func ExampleExitError() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	_, err = sb.Shell(ctx, "echo no such thing >&2; exit 3").Output()
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		fmt.Printf("%d %s", exit.Code, exit.Stderr)
	}
	// Output: 3 no such thing
}

func ExampleStartError() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	err = sb.Command(ctx, "frobnicate").Run()
	var failure *sandbox.StartError
	if errors.As(err, &failure) {
		fmt.Println(failure.Command, failure.Reason == sandbox.StartNotFound)
	}
	// Output: frobnicate true
}

// What a user of a shell would be told as 126 or 127.
func ExampleStartReason() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	var failure *sandbox.StartError
	if err := sb.Command(ctx, "/etc/passwd").Run(); errors.As(err, &failure) {
		switch failure.Reason {
		case sandbox.StartNotFound:
			fmt.Println(127)
		case sandbox.StartPermission, sandbox.StartNotExecutable:
			fmt.Println(126)
		}
	}
	// Output: 126
}

func ExampleRlimit() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	cmd := sb.Command(ctx, "dd", "if=/dev/zero", "of=/tmp/big", "bs=1024", "count=64")
	cmd.Rlimits = []sandbox.Rlimit{{Name: "fsize", Soft: 16 << 10, Hard: 16 << 10}}
	fmt.Println(cmd.Run() != nil)
	size, err := sb.Shell(ctx, "wc -c </tmp/big").Output()
	fmt.Println(strings.TrimSpace(string(size)), err)
	// Output:
	// true
	// 16384 <nil>
}

func ExampleTTYSize() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	cmd := sb.Command(ctx, "stty", "size")
	cmd.TTY = &sandbox.TTYSize{Rows: 50, Cols: 132}
	out, err := cmd.Output()
	fmt.Println(strings.TrimSpace(string(out)), err)
	// Output: 50 132 <nil>
}

func ExampleHandle() {
	ctx := context.Background()
	handles, err := sandbox.List(ctx)
	for _, h := range handles {
		cfg, _ := h.Config()
		fmt.Println(h.Name(), h.Status(), cfg.CPUs, cfg.Memory)
	}
	fmt.Println(err)
	// Output:
	// demo running 1 128
	// <nil>
}

func ExampleStatus() {
	h, err := sandbox.Get(context.Background(), "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	switch h.Status() {
	case sandbox.Running:
		fmt.Println("connect to it")
	case sandbox.Stopped, sandbox.Crashed:
		fmt.Println("start it")
	case sandbox.Starting, sandbox.Draining:
		fmt.Println("wait")
	}
	// Output: connect to it
}

func ExampleBoot() {
	sb, err := sandbox.Connect(context.Background(), "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	boot := sb.Boot()
	fmt.Println(len(boot.Phases) > 5, boot.Exits["MMIO"] > 0)
	// Output: true true
}

func ExamplePhase() {
	sb, err := sandbox.Connect(context.Background(), "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	var slowest sandbox.Phase
	for _, p := range sb.Boot().Phases {
		if p.Duration > slowest.Duration {
			slowest = p
		}
	}
	fmt.Println(slowest.Name != "")
	// Output: true
}

// A sandbox that is prepared by patches, stopped, and started again.
func ExampleExitStatus() {
	ctx := context.Background()
	sb, err := sandbox.Create(ctx, "prepared", sandbox.Config{
		Memory:  128,
		Patches: []sandbox.Patch{{Kind: sandbox.PatchFile, Path: "/etc/motd", Content: "patched\n"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = sb.Command(ctx, "cp", "/etc/motd", "/root/note").Run()
	status, err := sb.StopAndWait(ctx)
	fmt.Println(status.Success, status.Reason, err)

	sb, err = sandbox.Start(ctx, "prepared")
	if err != nil {
		fmt.Println(err)
		return
	}
	out, err := sb.Command(ctx, "cat", "/root/note").Output()
	fmt.Printf("%s%v\n", out, err)
	fmt.Println(sb.RemovePersisted(ctx))
	// Output:
	// true stopped <nil>
	// patched
	// <nil>
	// <nil>
}

func ExamplePatch() {
	patch := sandbox.Patch{Kind: sandbox.PatchFile, Path: "/usr/local/bin/tool", Content: "#!/bin/sh\necho tool\n", Mode: 0o755}
	sb, err := sandbox.Create(context.Background(), "patched", sandbox.Config{Memory: 128, Ephemeral: true, Patches: []sandbox.Patch{patch}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	out, err := sb.Command(context.Background(), "tool").Output()
	fmt.Printf("%s%v\n", out, err)
	// Output:
	// tool
	// <nil>
}

// A boot that fails says at which stage, and what the guest said last.
func ExampleBootError() {
	kernel, err := os.CreateTemp("", "kernel")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(kernel.Name())
	_, _ = io.WriteString(kernel, "not a kernel")
	_ = kernel.Close()
	_, err = sandbox.Create(context.Background(), "broken", sandbox.Config{Kernel: kernel.Name()})
	var boot *sandbox.BootError
	if errors.As(err, &boot) {
		fmt.Println(boot.Stage)
	}
	// Output: machine
}
