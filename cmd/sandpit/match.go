package main

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// matchFlags choose sandboxes by what they are.
type matchFlags struct {
	filters          []string
	labels           []string
	running, stopped bool
}

// add adds the flags; short is the one letter that --filter has too, if any.
func (f *matchFlags) add(cmd *cobra.Command, short string) {
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.filters, "filter", short, nil, "only those that match a `filter`: name=PATTERN, status=STATUS, image=PATTERN, label=KEY[=VALUE] or until=AGE (at least so old); repeatable")
	fl.StringArrayVar(&f.labels, "label", nil, "only those that have the label, KEY or `KEY=VALUE`; repeatable")
	_ = cmd.RegisterFlagCompletionFunc("filter", completeFilter)
}

// statuses are what status= can ask for.
var statuses = []string{string(sandbox.Starting), string(sandbox.Running), string(sandbox.Draining),
	string(sandbox.Stopped), string(sandbox.Crashed), statusUnreadable}

// matcher is what matchFlags ask for. Names, statuses and images are
// alternatives; of labels, all must be there.
type matcher struct {
	names, statuses, images []string
	labels                  []string
	before                  time.Time
}

// errFilter says what a filter looks like.
var errFilter = errors.New("want name=PATTERN, status=STATUS, image=PATTERN, label=KEY[=VALUE] or until=AGE")

func (f *matchFlags) matcher() (*matcher, error) {
	m := &matcher{}
	if f.running && f.stopped {
		return nil, errors.New("--running and --stopped: want one of the two")
	}
	if f.running {
		m.statuses = statuses[:3]
	}
	if f.stopped {
		m.statuses = statuses[3:5]
	}
	for _, l := range f.labels {
		if l == "" || strings.HasPrefix(l, "=") {
			return nil, fmt.Errorf("--label %q: want KEY or KEY=VALUE", l)
		}
		m.labels = append(m.labels, l)
	}
	var asked []string
	for _, filter := range f.filters {
		key, value, ok := strings.Cut(filter, "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("--filter %q: %w", filter, errFilter)
		}
		switch key {
		case "name", "image":
			if _, err := path.Match(value, ""); err != nil {
				return nil, fmt.Errorf("--filter %q: %w; * is any text, ? one character, [a-z] one of these", filter, err)
			}
			if key == "name" {
				m.names = append(m.names, value)
			} else {
				m.images = append(m.images, value)
			}
		case "status":
			if !slices.Contains(statuses, value) {
				return nil, fmt.Errorf("--filter %q: want one of the statuses %s", filter, strings.Join(statuses, ", "))
			}
			asked = append(asked, value)
		case "label":
			m.labels = append(m.labels, value)
		case "until":
			var age seconds
			if err := age.Set(value); err != nil {
				return nil, fmt.Errorf("--filter %q: %w", filter, err)
			}
			m.before = time.Now().Add(-time.Duration(age))
		default:
			return nil, fmt.Errorf("--filter %q: %w", filter, errFilter)
		}
	}
	if asked != nil {
		if m.statuses != nil { // --running and status=: what both say
			asked = slices.DeleteFunc(asked, func(s string) bool { return !slices.Contains(m.statuses, s) })
		}
		m.statuses = asked
	}
	return m, nil
}

func (m *matcher) matches(v view) bool {
	if m.statuses != nil && !slices.Contains(m.statuses, v.Status) {
		return false
	}
	if !m.before.IsZero() && (v.CreatedAt.IsZero() || v.CreatedAt.After(m.before)) {
		return false
	}
	for _, l := range m.labels {
		key, value, exact := strings.Cut(l, "=")
		if have, ok := v.Labels[key]; !ok || exact && have != value {
			return false
		}
	}
	return matchesAny(m.names, v.Name) && matchesAny(m.images, v.Image)
}

// matchesAny is whether text matches one of the patterns, or there are none. A
// slash is a character like others.
func matchesAny(patterns []string, text string) bool {
	if patterns == nil {
		return true
	}
	noSlash := strings.NewReplacer("/", "\x00")
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(noSlash.Replace(p), noSlash.Replace(text))
		return ok && err == nil
	})
}
