package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

const suffix = ".log"

// segmentName is the file with a number. More than six digits are fine.
func segmentName(log string, seq int) string { return fmt.Sprintf("%s.%06d%s", log, seq, suffix) }

// segmentSeq is the number of a file of the log, 0 if it is none.
func segmentSeq(log, name string) int {
	digits, ok := strings.CutPrefix(name, log+".")
	if !ok {
		return 0
	}
	if digits, ok = strings.CutSuffix(digits, suffix); !ok {
		return 0
	}
	seq, err := strconv.Atoi(digits)
	if err != nil || seq < 1 || segmentName(log, seq) != name {
		return 0
	}
	return seq
}

// segments are the numbers of a log's files, in order.
func segments(root *os.Root, log string) ([]int, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var seqs []int
	for _, name := range names {
		if seq := segmentSeq(log, name); seq != 0 {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs, nil
}

// checkRegular refuses what is no file of a log's: a symbolic link among them.
func checkRegular(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	return nil
}

// openSegment opens one for reading; nil if it is gone.
func openSegment(root *os.Root, log string, seq int) (*os.File, error) {
	name := segmentName(log, seq)
	err := checkRegular(root, name)
	if err == nil {
		var f *os.File
		if f, err = root.Open(name); err == nil {
			return f, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return nil, err
}
