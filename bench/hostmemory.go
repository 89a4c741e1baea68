package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// hostMemory measures what sandboxes that have all read the same take.
func (b *bed) hostMemory(w io.Writer) error {
	if _, err := b.rootImage(); err != nil {
		return err
	}
	fmt.Fprintf(w, "host memory of %d sandboxes on the python image, each after the walk and the reads; the host's page cache is not counted, as it can be dropped:\n", b.sandboxes)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range b.sandpitReaders() {
		used, err := b.together(r)
		if err != nil {
			fmt.Fprintf(t, "  %s\tdid not run: %v\n", r.name, firstLine(err))
			continue
		}
		fmt.Fprintf(t, "  %s\t%s\t%s each\n", r.name, mib(used), mib(used/int64(b.sandboxes)))
	}
	return t.Flush()
}

// together runs the sandboxes at once and says how much less memory is
// available.
func (b *bed) together(r *reader) (used int64, err error) {
	before, err := available()
	if err != nil {
		return 0, err
	}
	var guests []*guest
	defer func() {
		for _, g := range guests {
			err = errors.Join(err, g.end())
		}
	}()
	for range b.sandboxes {
		g, err := r.start()
		if err != nil {
			return 0, err
		}
		guests = append(guests, g)
		for _, s := range steps {
			if _, _, _, err := g.step(s); err != nil {
				return 0, err
			}
		}
	}
	after, err := available()
	return before - after, err
}

// available is the host's available memory (proc(5), /proc/meminfo).
func available() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(data))
	i := slices.Index(f, "MemAvailable:")
	if i < 0 || i+1 >= len(f) {
		return 0, errors.New("/proc/meminfo has no MemAvailable")
	}
	kib, err := strconv.ParseInt(f[i+1], 10, 64)
	return kib << 10, err
}
