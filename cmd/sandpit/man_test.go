package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// updateMan makes the test write the manual pages instead of comparing them:
// 'make man' sets it. The pages are made here, and not by a command, so that
// sandpit does not carry what makes them.
const updateMan = "SANDPIT_UPDATE_MAN"

// manDir is where the pages are kept, manDate what stands in their footer.
const (
	manDir  = "../../docs/man"
	manDate = "2026-01-01"
)

func TestHostManPagesAreCurrent(t *testing.T) {
	pages := manPages(newRoot())
	if os.Getenv(updateMan) != "" {
		old, err := filepath.Glob(manDir + "/*.[17]")
		require.NoError(t, err)
		for _, file := range old {
			require.NoError(t, os.Remove(file))
		}
		require.NoError(t, os.MkdirAll(manDir, 0o755))
		for name, page := range pages {
			require.NoError(t, os.WriteFile(filepath.Join(manDir, name), []byte(page), 0o644))
		}
		return
	}
	entries, err := os.ReadDir(manDir)
	require.NoError(t, err, "run 'make man'")
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	require.Equal(t, slices.Sorted(maps.Keys(pages)), names, "run 'make man'")
	for name, page := range pages {
		have, err := os.ReadFile(filepath.Join(manDir, name))
		require.NoError(t, err)
		require.Equal(t, page, string(have), "%s is out of date: run 'make man'", name)
	}
}

// manPages are the pages of a command and of those below it, by file name.
func manPages(cmd *cobra.Command) map[string]string {
	pages := map[string]string{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		name, section := manName(c)
		pages[name+"."+section] = manPage(c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(cmd)
	return pages
}

// manName is a page's name and section: help topics are about no command.
func manName(c *cobra.Command) (name, section string) {
	section = "1"
	if c.IsAdditionalHelpTopicCommand() {
		section = "7"
	}
	return strings.ReplaceAll(c.CommandPath(), " ", "-"), section
}

func manPage(c *cobra.Command) string {
	var b strings.Builder
	name, section := manName(c)
	fmt.Fprintf(&b, ".TH %q %q %q \"Sandpit\" \"Sandpit Manual\"\n", strings.ToUpper(name), section, manDate)
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(c.Short))
	if section == "1" {
		fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(c.UseLine()))
	}
	b.WriteString(".SH DESCRIPTION\n")
	if c.Long != "" {
		paragraphs(&b, c.Long)
	} else {
		b.WriteString(roff(c.Short) + ".\n")
	}
	if len(c.Aliases) > 0 {
		fmt.Fprintf(&b, ".PP\nIt may also be written %s.\n", roff(strings.Join(c.Aliases, ", ")))
	}
	var commands, topics []*cobra.Command
	for _, sub := range c.Commands() {
		switch {
		case sub.Hidden || sub.Name() == "help":
		case sub.IsAdditionalHelpTopicCommand():
			topics = append(topics, sub)
		default:
			commands = append(commands, sub)
		}
	}
	if len(commands) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range commands {
			subName, subSection := manName(sub)
			fmt.Fprintf(&b, ".TP\n.BR %s (%s)\n%s\n", roff(subName), subSection, roff(sub.Short))
		}
	}
	options(&b, c.Flags())
	if c.Example != "" {
		b.WriteString(".SH EXAMPLES\n")
		preformatted(&b, c.Example)
	}
	for _, topic := range topics {
		fmt.Fprintf(&b, ".SH %s\n", strings.ToUpper(strings.ReplaceAll(topic.Name(), "-", " ")))
		paragraphs(&b, topic.Long)
	}
	if also := seeAlso(c); len(also) > 0 {
		b.WriteString(".SH SEE ALSO\n" + strings.Join(also, ",\n") + "\n")
	}
	return b.String()
}

// seeAlso are references to the command above, and of a command to the pages
// that all have in common.
func seeAlso(c *cobra.Command) (list []string) {
	if !c.HasParent() {
		return nil
	}
	refer := func(other *cobra.Command) {
		if other != c {
			name, section := manName(other)
			list = append(list, fmt.Sprintf(".BR %s (%s)", roff(name), section))
		}
	}
	refer(c.Parent())
	for _, topic := range c.Root().Commands() {
		if topic.IsAdditionalHelpTopicCommand() {
			refer(topic)
		}
	}
	return list
}

func options(b *strings.Builder, flags *pflag.FlagSet) {
	title := ".SH OPTIONS\n"
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		b.WriteString(title)
		title = ""
		value, usage := pflag.UnquoteUsage(f)
		if value == "stringArray" {
			value = "string"
		}
		b.WriteString(".TP\n")
		if f.Shorthand != "" {
			fmt.Fprintf(b, "\\fB\\-%s\\fR, ", f.Shorthand)
		}
		fmt.Fprintf(b, "\\fB\\-\\-%s\\fR", roff(f.Name))
		if value != "" {
			fmt.Fprintf(b, " \\fI%s\\fR", roff(value))
		}
		b.WriteString("\n" + roff(usage))
		if !slices.Contains([]string{"", "0", "0s", "false", "[]"}, f.DefValue) {
			fmt.Fprintf(b, " (default %s)", roff(f.DefValue))
		}
		b.WriteString("\n")
	})
}

// paragraphs are filled, but for those that look laid out by hand.
func paragraphs(b *strings.Builder, text string) {
	for i, p := range strings.Split(text, "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(p, " ") || strings.Contains(p, "\n ") || strings.Contains(p, "   ") {
			preformatted(b, p)
			continue
		}
		b.WriteString(roff(p) + "\n")
	}
}

func preformatted(b *strings.Builder, text string) {
	b.WriteString(".nf\n" + roff(text) + "\n.fi\n")
}

// roff is text as roff(7) wants it.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

// A roff line that begins with a dot is a request, and what is no ASCII is not
// the same everywhere.
func TestHostManPagesArePlain(t *testing.T) {
	for name, page := range manPages(newRoot()) {
		for i, line := range strings.Split(page, "\n") {
			require.NotContains(t, line, "'", "%s:%d", name, i+1)
			require.False(t, strings.ContainsFunc(line, func(r rune) bool { return r > '~' || r < ' ' }), "%s:%d: %q", name, i+1, line)
		}
	}
	require.Equal(t, "\\&.x \\e \\-\\-a \\(aqb\\(aq...", roff(`.x \ --a 'b'…`))
}
