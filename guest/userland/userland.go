package userland

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sandpit-vm/sandpit/guest/userland/shell"
)

// command is one run of a command.
type command struct {
	name   string
	args   []string // without the name
	out    *bufio.Writer
	status int
	opts   options
}

// applet is an entry of the command table.
type applet struct {
	name string
	dir  string // where the image has it; "" is /usr/bin
	run  func(*command)
}

// Main runs the command that args[0] names, or with the binary's own name the
// one that args[1] names, and returns its exit status.
func Main(args []string) int {
	name := strings.TrimPrefix(filepath.Base(args[0]), "-")
	if name == "userland" {
		if len(args) < 2 {
			fmt.Println(strings.Join(Names(), " "))
			return 0
		}
		args = args[1:]
		name = args[0]
	}
	switch name {
	case "sh", "ash", "bash":
		return shell.Main(args)
	}
	return run(name, args)
}

// Names lists the commands, sorted, "sh" included.
func Names() []string {
	var list []string
	for _, a := range applets() {
		list = append(list, a.name)
	}
	return list
}

// Link is a symbolic link of the image.
type Link struct{ Path, Target string }

// Links lists the links by which the image offers the commands, given the
// binary as /usr/bin/userland.
func Links() []Link {
	var list []Link
	for _, a := range applets() {
		if a.dir == "" {
			list = append(list, Link{"/usr/bin/" + a.name, "userland"})
		} else {
			list = append(list, Link{a.dir + "/" + a.name, "../bin/userland"})
		}
	}
	return list
}

func run(name string, args []string) int {
	for _, a := range applets() {
		if a.name == name {
			c := &command{name: name, args: args[1:], out: bufio.NewWriterSize(os.Stdout, 32<<10)}
			a.run(c)
			c.flush()
			return c.status
		}
	}
	fmt.Fprintf(os.Stderr, "%s: applet not found\n", name)
	return 127
}

// flush writes what is buffered; a full disk becomes an error, and a closed
// pipe ends the process with SIGPIPE: the runtime does that for standard output.
func (c *command) flush() {
	if err := c.out.Flush(); err != nil {
		c.out.Reset(os.Stdout)
		c.errorf("write error: %v", reason(err))
	}
}

// errorf reports a failure: the message on standard error, and exit status 1
// unless a higher one is set.
func (c *command) errorf(format string, args ...any) {
	c.out.Flush()
	fmt.Fprintf(os.Stderr, "%s: %s\n", c.name, fmt.Sprintf(format, args...))
	c.status = max(c.status, 1)
}

// fail is errorf with a file's name and the reason of an error.
func (c *command) fail(path string, err error) {
	c.errorf("%s: %v", path, reason(err))
}

// usage reports a wrong call.
func (c *command) usage(text string) {
	c.out.Flush()
	fmt.Fprintf(os.Stderr, "usage: %s %s\n", c.name, text)
	c.status = max(c.status, 1)
}

// reason is an error's errno in the words of the C library.
func reason(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		msg := no.Error()
		return errors.New(strings.ToUpper(msg[:1]) + msg[1:])
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// open opens an operand: "-" is standard input.
func (c *command) open(path string) (*os.File, error) {
	if path == "-" {
		return os.Stdin, nil
	}
	return os.Open(path)
}

// inputs calls fn for each operand, or for standard input if there are none,
// and reports those that cannot be opened or read.
func (c *command) inputs(paths []string, fn func(name string, r io.Reader) error) {
	if len(paths) == 0 {
		paths = []string{"-"}
	}
	for _, p := range paths {
		f, err := c.open(p)
		if err == nil {
			err = fn(p, f)
			if f != os.Stdin {
				f.Close()
			}
		}
		if err != nil {
			c.fail(p, err)
		}
	}
}

// lines calls fn for each line of r without its newline. Lines may be of any
// length; fn must not keep the slice. It stops when fn returns false.
func lines(r io.Reader, fn func(line []byte, newline bool) bool) error {
	return records(r, '\n', fn)
}

func records(r io.Reader, delim byte, fn func(rec []byte, ended bool) bool) error {
	br := bufio.NewReaderSize(r, 64<<10)
	var long []byte
	for {
		part, err := br.ReadSlice(delim)
		if err == bufio.ErrBufferFull {
			long = append(long, part...)
			continue
		}
		if long != nil {
			part = append(long, part...)
			long = nil
		}
		if len(part) > 0 {
			ended := part[len(part)-1] == delim
			if ended {
				part = part[:len(part)-1]
			}
			if !fn(part, ended) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
