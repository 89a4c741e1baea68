package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// output is how a command prints what it found: a table for people, JSON for
// programs, or what a Go template makes of each thing.
type output struct {
	format   string
	noTable  bool
	template *lineTemplate
}

func (o *output) add(fl *pflag.FlagSet) {
	fl.StringVar(&o.format, "format", "table", "`format`: table, json, or a Go template (see 'sandpit help format')")
}

// addJSON is add for a command that prints JSON unless told otherwise.
func (o *output) addJSON(fl *pflag.FlagSet) {
	o.noTable = true
	fl.StringVar(&o.format, "format", "json", "`format`: json, or a Go template (see 'sandpit help format')")
}

// check reads the flag; it comes before everything that takes time.
func (o *output) check() error {
	if o.format == "json" || o.format == "table" && !o.noTable {
		return nil
	}
	if !strings.Contains(o.format, "{{") {
		words := "table, json"
		if o.noTable {
			words = "json"
		}
		return fmt.Errorf("--format %q: want %s, or a template such as '{{.Name}}'", o.format, words)
	}
	// A shell's quotes leave \t and \n as they are.
	text := strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(o.format)
	t, err := parseTemplate(text)
	if err != nil {
		return fmt.Errorf("%w\nsee 'sandpit help format'", err)
	}
	o.template = t
	return nil
}

func (o *output) table() bool { return o.format == "table" }

func (o *output) json() bool { return o.format == "json" }

// printList prints what is not a table: a list as one JSON array, or the template
// for each element.
func printList[T any](o *output, list []T) error {
	if o.template == nil {
		if list == nil {
			list = []T{}
		}
		return printJSON(list)
	}
	var b bytes.Buffer
	for _, v := range list {
		if err := o.template.execute(&b, v); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		b.WriteByte('\n')
	}
	_, err := os.Stdout.WriteString(plain(b.String()))
	return err
}

func printJSON(v any) error {
	out, err := encodeJSON(v)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(out)
	return err
}

// encodeJSON also escapes what a terminal would obey and encoding/json lets
// pass. Such characters are in strings only, where the escape is the same.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	if !bytes.ContainsFunc(b.Bytes(), isControl) {
		return b.Bytes(), nil
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

// completeFormat completes --format of a command that has it.
func completeFormat(cmd *cobra.Command, words ...string) {
	if cmd.Flags().Lookup("format") != nil {
		_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
}
