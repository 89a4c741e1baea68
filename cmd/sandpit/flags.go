package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// seconds is a time as a flag: a number of seconds, as Docker has it, or with
// units, as Go has it.
type seconds time.Duration

func (s *seconds) String() string {
	if *s == 0 {
		return "0"
	}
	return time.Duration(*s).String()
}

func (s *seconds) Type() string { return "time" }

func (s *seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, numErr := strconv.ParseFloat(text, 64); numErr == nil {
		d, err = time.Duration(n*float64(time.Second)), nil
		if !(n < math.MaxInt64/float64(time.Second)) {
			err = strconv.ErrRange
		}
	}
	if err != nil || d < 0 {
		return errors.New("want a number of seconds, or a time such as 90s, 15m or 8h")
	}
	*s = seconds(d)
	return nil
}

// size of memory or of a disk in MiB, as a flag: a number of MiB, or with a
// unit, as Docker has it.
type sizeMiB int

func (s *sizeMiB) String() string { return strconv.Itoa(int(*s)) }

func (s *sizeMiB) Type() string { return "MiB" }

func (s *sizeMiB) Set(text string) error {
	number, unit := strings.ToLower(text), 1
	number = strings.TrimSuffix(strings.TrimSuffix(number, "b"), "i")
	if n := len(number); n > 0 {
		switch number[n-1] {
		case 'm':
			number = number[:n-1]
		case 'g':
			number, unit = number[:n-1], 1024
		case 't':
			number, unit = number[:n-1], 1024*1024
		}
	}
	n, err := strconv.Atoi(number)
	if err != nil || n <= 0 || n > math.MaxInt32/unit {
		return errors.New("want a number of MiB, or a size such as 512m or 2g")
	}
	*s = sizeMiB(n * unit)
	return nil
}

// parseLabels reads KEY=VALUE, or KEY for an empty value.
func parseLabels(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	labels := make(map[string]string, len(list))
	for _, l := range list {
		key, value, _ := strings.Cut(l, "=")
		if key == "" {
			return nil, fmt.Errorf("--label %q: want KEY=VALUE or KEY", l)
		}
		labels[key] = value
	}
	return labels, nil
}

// parseScripts reads NAME=FILE, or FILE for the file's own name.
func parseScripts(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	scripts := make(map[string]string, len(list))
	for _, s := range list {
		name, file, ok := strings.Cut(s, "=")
		if !ok {
			name, file = filepath.Base(s), s
		}
		if name == "" || file == "" {
			return nil, fmt.Errorf("--script %q: want NAME=FILE or FILE", s)
		}
		content, err := readScript(file)
		if err != nil {
			return nil, fmt.Errorf("--script %s: %w", name, err)
		}
		scripts[name] = content
	}
	return scripts, nil
}

// maxScript is more than a Config takes: what is larger need not be read.
const maxScript = 4 << 20

func readScript(file string) (string, error) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s: not a regular file", file)
	case info.Size() > maxScript:
		return "", fmt.Errorf("%s: %s: too large for a script; copy it into the sandbox instead", file, size(info.Size()))
	}
	content, err := os.ReadFile(file)
	return string(content), err
}

// parseRlimits reads NAME=SOFT[:HARD], as setrlimit(2) has the names without
// their RLIMIT_, and "unlimited" or -1 for no limit.
func parseRlimits(list []string) ([]sandbox.Rlimit, error) {
	var limits []sandbox.Rlimit
	for _, l := range list {
		name, values, ok := strings.Cut(l, "=")
		soft, hard, both := strings.Cut(values, ":")
		if !both {
			hard = soft
		}
		s, softErr := parseRlimit(soft)
		h, hardErr := parseRlimit(hard)
		if !ok || name == "" || softErr != nil || hardErr != nil {
			return nil, fmt.Errorf("--rlimit %q: want NAME=SOFT[:HARD], each a number or unlimited, such as nofile=1024:4096", l)
		}
		limits = append(limits, sandbox.Rlimit{Name: strings.ToLower(strings.TrimPrefix(strings.ToUpper(name), "RLIMIT_")), Soft: s, Hard: h})
	}
	return limits, nil
}

func parseRlimit(text string) (uint64, error) {
	if text == "unlimited" || text == "-1" {
		return sandbox.RlimInfinity, nil
	}
	return strconv.ParseUint(text, 10, 64)
}
