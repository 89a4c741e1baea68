package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// colour is a colour of the terminal's own palette (ECMA-48, SGR).
type colour string

const (
	noColour colour = ""
	red      colour = "31"
	green    colour = "32"
	yellow   colour = "33"
)

// paint puts text into a colour, if there is one.
func (c colour) paint(text string) string {
	if c == noColour {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// hasColour tells whether to use colours: on terminals that know them, and not
// if the user does not want them (no-color.org).
func hasColour(f *os.File) bool {
	t := os.Getenv("TERM")
	return os.Getenv("NO_COLOR") == "" && t != "" && t != "dumb" && isTerminal(f)
}

// cell is one field of a table.
type cell struct {
	text   string
	colour colour
}

// table is columns of text for people.
type table struct {
	header []string
	// flexible is the column that is shortened where a terminal is too narrow,
	// -1 if none is.
	flexible int
	rows     [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// columnGap is between columns, minFlexible what is left of a flexible one.
const (
	columnGap   = 3
	minFlexible = 12
)

// print writes the table to standard output: as wide as it needs to be, or,
// on a terminal, as that is wide.
func (t *table) print() error {
	width := 0
	if isTerminal(os.Stdout) {
		// A terminal that does not know its size gets the table as it is.
		width, _, _ = term.GetSize(int(os.Stdout.Fd()))
	}
	_, err := os.Stdout.Write(t.render(width, hasColour(os.Stdout)))
	return err
}

// render lays the table out; width 0 is no limit.
func (t *table) render(width int, colours bool) []byte {
	header := make([]cell, len(t.header))
	for i, h := range t.header {
		header[i].text = h
	}
	rows := append([][]cell{header}, t.rows...)
	widths := make([]int, len(t.header))
	total := columnGap * (len(widths) - 1)
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
		total += widths[i]
	}
	if i := t.flexible; i >= 0 && width > 0 && total > width {
		widths[i] = max(widths[i]-(total-width), min(minFlexible, widths[i]))
	}
	var b bytes.Buffer
	for _, row := range rows {
		for i, c := range row {
			text := shorten(c.text, widths[i])
			pad := widths[i] - utf8.RuneCountInString(text) + columnGap
			if colours {
				text = c.colour.paint(text)
			}
			b.WriteString(text)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", pad))
			}
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// shorten cuts text to a width, and shows that it did.
func shorten(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(width-1, 0)]) + "…"
}

// ago is how long ago something was, for people; "-" if it is not known.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	const day = 24 * time.Hour
	d := now.Sub(t)
	for _, u := range []struct {
		size, until time.Duration
		name        string
	}{
		{time.Second, time.Minute, "second"},
		{time.Minute, time.Hour, "minute"},
		{time.Hour, 2 * day, "hour"},
		{day, 14 * day, "day"},
		{7 * day, 60 * day, "week"},
		{30 * day, 730 * day, "month"},
	} {
		if d < u.until {
			return count(int(d/u.size), u.name)
		}
	}
	return count(int(d/(365*day)), "year")
}

func count(n int, unit string) string {
	switch {
	case n < 1:
		return "just now"
	case n == 1:
		return "1 " + unit + " ago"
	}
	return fmt.Sprintf("%d %ss ago", n, unit)
}
