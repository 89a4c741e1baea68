package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// logsFlags are those of the logs command.
type logsFlags struct {
	follow, timestamps bool
	tail, since, until string
	sources            []string
	format             string
}

func newLogs() *cobra.Command {
	var f logsFlags
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Show what a sandbox's console and commands wrote",
		Long: "Logs shows what a sandbox has written, whether it runs or not: its console and, if\n" +
			"it was created with --capture, the output of its commands; what they wrote to\n" +
			"stderr goes to stderr. Output of terminals is never recorded.\n\n" +
			"A TIME is one such as 2026-05-04T10:00:00Z, or how long ago, such as 90s or 15m.",
		Example: "  sandpit create --capture build debian:12\n  sandpit logs -f --tail 20 build\n" +
			"  sandpit logs --source console build\n  sandpit logs -t --since 15m build",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("'%s' wants the name of one sandbox\nsee '%s --help'", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.BoolVarP(&f.follow, "follow", "f", false, "wait for more, until the sandbox ends")
	fl.StringVarP(&f.tail, "tail", "n", "all", "`number` of the last lines to show")
	fl.StringVar(&f.since, "since", "", "only what was written since a `TIME`")
	fl.StringVar(&f.until, "until", "", "only what was written until a `TIME`")
	fl.BoolVarP(&f.timestamps, "timestamps", "t", false, "show when each line was written")
	fl.StringSliceVar(&f.sources, "source", nil, "only these `SOURCE`s: console, stdout, stderr")
	fl.StringVar(&f.format, "format", "text", "`format`: text, or json: an object a line")
	completeFormat(cmd, "text", "json")
	_ = cmd.RegisterFlagCompletionFunc("source", cobra.FixedCompletions([]cobra.Completion{"console", "stdout", "stderr"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// options are what the flags ask for.
func (f *logsFlags) options(now time.Time) (o sandbox.LogOptions, err error) {
	o.Follow = f.follow
	for _, s := range f.sources {
		o.Sources = append(o.Sources, sandbox.LogSource(s))
	}
	if f.tail != "all" {
		n, err := strconv.Atoi(f.tail)
		if err != nil || n < 0 {
			return o, fmt.Errorf("--tail %q: want a number of lines, or all", f.tail)
		}
		if o.Tail = n; n == 0 {
			o.Tail = -1
		}
	}
	if o.Since, err = parseWhen(f.since, now); err != nil {
		return o, fmt.Errorf("--since %q: %w", f.since, err)
	}
	if o.Until, err = parseWhen(f.until, now); err != nil {
		return o, fmt.Errorf("--until %q: %w", f.until, err)
	}
	return o, nil
}

// parseWhen reads a time, or how long ago it was.
func parseWhen(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	var age seconds
	if err := age.Set(text); err != nil {
		return time.Time{}, errors.New("want a time such as 2026-05-04T10:00:00Z, or how long ago, such as 90s or 15m")
	}
	return now.Add(-time.Duration(age)), nil
}

func (f *logsFlags) run(cmd *cobra.Command, name string) error {
	if f.format != "text" && f.format != "json" {
		return fmt.Errorf("--format %q: want text or json", f.format)
	}
	o, err := f.options(time.Now())
	if err != nil {
		return err
	}
	h, err := sandbox.Get(cmd.Context(), name)
	if err != nil {
		return err
	}
	p := &logPrinter{
		json: f.format == "json", timestamps: f.timestamps,
		stdout: logOutput{w: os.Stdout, terminal: isTerminal(os.Stdout)},
		stderr: logOutput{w: os.Stderr, terminal: isTerminal(os.Stderr)},
	}
	for e, err := range h.Logs(cmd.Context(), o) {
		if err != nil {
			return err
		}
		if err := p.print(&e); err != nil {
			return err
		}
	}
	return nil
}

// logPrinter writes entries.
type logPrinter struct {
	json, timestamps bool
	stdout, stderr   logOutput
}

// logOutput is one of our outputs and what was written to it last.
type logOutput struct {
	w        io.Writer
	terminal bool
	within   bool // a line, of this command's
	source   sandbox.LogSource
	exec     string
}

func (p *logPrinter) print(e *sandbox.LogEntry) error {
	if p.json {
		line, err := logLine(e)
		if err == nil {
			_, err = p.stdout.w.Write(line)
		}
		return err
	}
	switch e.Source {
	case sandbox.LogNotice:
		return p.stderr.write(e, p.timestamps, "sandpit: log: ")
	case sandbox.LogStderr:
		return p.stderr.write(e, p.timestamps, "")
	}
	return p.stdout.write(e, p.timestamps, "")
}

// write writes an entry: as it is, or harmless to a terminal. With timestamps,
// and before what is not a command's, a line begins anew.
func (o *logOutput) write(e *sandbox.LogEntry, timestamps bool, prefix string) error {
	var b strings.Builder
	same := o.source == e.Source && o.exec == e.Exec
	if o.within && !same && (timestamps || prefix != "") {
		b.WriteByte('\n')
		o.within = false
	}
	if timestamps && !o.within {
		b.WriteString(e.Time.Local().Format("2006-01-02T15:04:05.000000Z07:00") + " ")
	}
	b.WriteString(prefix)
	if o.terminal {
		b.WriteString(plain(string(e.Data)))
	} else {
		b.Write(e.Data)
	}
	o.within = !bytes.HasSuffix(e.Data, []byte{'\n'})
	o.source, o.exec = e.Source, e.Exec
	_, err := io.WriteString(o.w, b.String())
	return err
}

// logLine is an entry as a line of JSON, which does nothing to a terminal.
func logLine(e *sandbox.LogEntry) ([]byte, error) {
	l := struct {
		Time   time.Time `json:"time"`
		Source string    `json:"source"`
		Exec   string    `json:"exec,omitempty"`
		Data   string    `json:"data"`
		Base64 bool      `json:"base64,omitempty"`
	}{Time: e.Time, Source: string(e.Source), Exec: e.Exec, Data: string(e.Data)}
	if !utf8.Valid(e.Data) {
		l.Data, l.Base64 = base64.StdEncoding.EncodeToString(e.Data), true
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&l); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, r := range b.String() {
		if isControl(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
			continue
		}
		out.WriteRune(r)
	}
	return out.Bytes(), nil
}
