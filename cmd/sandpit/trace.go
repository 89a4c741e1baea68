package main

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// traceFlags are the flags of sandpit trace.
type traceFlags struct {
	configFlags
	json   bool
	all    bool
	output string
}

func newTrace() *cobra.Command {
	var f traceFlags
	cmd := &cobra.Command{
		Use:   "trace [flags] [IMAGE] [-- COMMAND [ARG…]]",
		Short: "Show what happens in the machine while a command runs",
		Long: "Trace runs a command in a new sandbox, as run does, and tells what its virtual\n" +
			"machine does meanwhile: how it is built, how the guest's drivers find and set up\n" +
			"each device, what goes through the queues, what is on the serial port, how it\n" +
			"ends. The story is the output; what the command writes goes to standard error. The\n" +
			"exit status is the command's.\n\n" +
			"What repeats itself is told once, with its number. --all tells every VM exit, with\n" +
			"the register's name and what the value means. --json is for programs: one object a\n" +
			"line, whose fields are those of the library's TraceEvent. A trace ends after\n" +
			"32 MiB of that. The sandbox is slower while it is traced, and the guest can tell.",
		Example: "  sandpit trace -- true\n" +
			"  sandpit trace --all debian:12 -- cat /etc/os-release | less\n" +
			"  sandpit trace --json -o boot.jsonl -- true",
		RunE: func(cmd *cobra.Command, args []string) error {
			image, command, err := splitArgs(cmd.ArgsLenAtDash(), args)
			if err != nil {
				return err
			}
			return f.run(cmd, image, command)
		},
	}
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.SortFlags = false
	fl.BoolVar(&f.json, "json", false, "one JSON object for each event")
	fl.BoolVar(&f.all, "all", false, "tell every VM exit")
	fl.StringVarP(&f.output, "output", "o", "", "write the trace to this file; standard output is then the command's")
	f.configFlags.add(fl)
	return cmd
}

// run runs the command in a sandbox of its own and tells its story.
func (f *traceFlags) run(cmd *cobra.Command, image string, args []string) (err error) {
	ctx := cmd.Context()
	if f.json && f.all {
		return errors.New("--json tells every exit: --all is for people")
	}
	cfg, err := f.config(cmd.Flags(), image)
	if err != nil {
		return err
	}
	cfg.Ephemeral = true
	out, commandOut := io.Writer(os.Stdout), io.Writer(os.Stderr)
	if f.output != "" {
		file, createErr := os.Create(f.output)
		if createErr != nil {
			return createErr
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out, commandOut = file, os.Stdout
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	told := make(chan error, 1)
	go func() { told <- f.tell(out, r) }()
	cfg.Trace = w
	sb, err := f.create(ctx, "trace-"+strings.ToLower(rand.Text()[:12]), cfg, sandbox.Create)
	w.Close() // the monitor's is the last: the end of it is the end of the story
	if err != nil {
		return errors.Join(err, <-told)
	}
	c := sb.MainCommand(ctx, args...)
	c.Main = true
	c.Stdout, c.Stderr = commandOut, os.Stderr
	err = commandStatus(ctx, c.Run())
	return errors.Join(err, end(sb), <-told)
}

// tell reads the trace and writes it for whoever asked. It reads to the end
// whatever happens: the guest waits for it.
func (f *traceFlags) tell(out io.Writer, trace io.Reader) (err error) {
	defer func() {
		_, copyErr := io.Copy(io.Discard, trace)
		err = errors.Join(err, copyErr)
	}()
	w := bufio.NewWriter(out)
	if f.json {
		_, err := io.Copy(w, trace)
		return errors.Join(err, w.Flush())
	}
	s := newStory(w, f.all)
	for dec := json.NewDecoder(trace); ; {
		var e sandbox.TraceEvent
		if err := dec.Decode(&e); err == io.EOF {
			s.finish()
			return w.Flush()
		} else if err != nil {
			return errors.Join(fmt.Errorf("reading the trace: %w", err), w.Flush())
		}
		s.event(&e)
		if err := w.Flush(); err != nil {
			return err
		}
	}
}
