package rig

import (
	"os"
	"path/filepath"
	"strings"
)

// testOutputs returns the directories into which go test wants a test binary to
// write its results, so that -coverprofile, -cpuprofile and the like work with
// -exec. What else a test writes stays in L1.
func testOutputs(args []string) []string {
	if !strings.HasSuffix(args[0], ".test") {
		return nil
	}
	var dirs []string
	add := func(dir string) {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() && dir != "/" {
			dirs = append(dirs, dir)
		}
	}
	for _, a := range args[1:] {
		name, value, _ := strings.Cut(strings.TrimPrefix(a, "-test."), "=")
		if value == "" || len(name) == len(a) {
			continue
		}
		switch name {
		case "coverprofile":
			// A relative path is relative to outputdir, which is listed too.
			if filepath.IsAbs(value) {
				add(filepath.Dir(value))
			}
		case "gocoverdir", "fuzzcachedir":
			add(value)
		case "cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace":
			if filepath.IsAbs(value) {
				add(filepath.Dir(value))
			}
		case "outputdir":
			if writesToOutputDir(args) {
				add(value)
			}
		}
	}
	return dirs
}

// writesToOutputDir tells whether any profile was asked for: go test names the
// directory in any case.
func writesToOutputDir(args []string) bool {
	for _, a := range args {
		for _, f := range []string{"coverprofile", "cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace"} {
			if strings.HasPrefix(a, "-test."+f+"=") {
				return true
			}
		}
	}
	return false
}
