package kvm_test

import (
	"fmt"
	"os"
	"testing"
)

// TestMain fails if the tests leave a descriptor behind.
func TestMain(m *testing.M) {
	// The runtime opens its poller's descriptors when it first needs them.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	before := descriptors()
	code := m.Run()
	for fd, what := range descriptors() {
		if _, ok := before[fd]; !ok {
			fmt.Fprintf(os.Stderr, "leaked descriptor %s: %s\n", fd, what)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// descriptors lists this process's open descriptors and what they are.
func descriptors() map[string]string {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out := map[string]string{}
	for _, e := range entries {
		what, err := os.Readlink(dir + "/" + e.Name())
		if err == nil { // the directory's own descriptor is gone by now
			out[e.Name()] = what
		}
	}
	return out
}
