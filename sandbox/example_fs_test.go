package sandbox_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// These examples need KVM, and a sandbox named "demo" that runs.

// The files of a sandbox are used like those of package os.
func ExampleFS() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	files := sb.FS()
	_ = files.MkdirAll(ctx, "/work/sub", 0o755)
	_ = files.WriteFile(ctx, "/work/sub/note", []byte("from the host\n"), 0o644)
	out, err := sb.Command(ctx, "cat", "/work/sub/note").Output()
	fmt.Printf("%s%v\n", out, err)
	_, err = files.Stat(ctx, "/work/none")
	fmt.Println(errors.Is(err, fs.ErrNotExist), err)
	_ = fs.WalkDir(files.DirFS(ctx, "/work"), ".", func(name string, d fs.DirEntry, err error) error {
		fmt.Println(name)
		return err
	})
	fmt.Println(files.RemoveAll(ctx, "/work"))
	// Output:
	// from the host
	// <nil>
	// true stat /work/none: no such file or directory
	// .
	// sub
	// sub/note
	// <nil>
}

// A File streams, whatever its size.
func ExampleFile() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	file, err := sb.FS().Create(ctx, "/tmp/lines")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer file.Close()
	w := bufio.NewWriter(file)
	for i := range 3 {
		fmt.Fprintln(w, "line", i)
	}
	_ = w.Flush()
	_, _ = file.Seek(0, io.SeekStart)
	_, err = io.Copy(os.Stdout, file)
	fmt.Println(err)
	// Output:
	// line 0
	// line 1
	// line 2
	// <nil>
}

// Trees go in and out; what the guest left behind cannot leave the directory
// that it is copied to.
func ExampleCopyOptions() {
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, "demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	_ = os.WriteFile(filepath.Join(dir, "input"), []byte("forty-two\n"), 0o644)
	files := sb.FS()
	fmt.Println(files.CopyFromHost(ctx, dir, "/tmp/job", sandbox.CopyOptions{}))
	fmt.Println(sb.Shell(ctx, "cd /tmp/job && mkdir out && tr a-z A-Z <input >out/result").Run())
	fmt.Println(files.CopyToHost(ctx, "/tmp/job/out", filepath.Join(dir, "out"), sandbox.CopyOptions{MaxEntries: 1000, MaxBytes: 1 << 20}))
	result, err := os.ReadFile(filepath.Join(dir, "out", "result"))
	fmt.Printf("%s%v\n", result, err)
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// FORTY-TWO
	// <nil>
}
