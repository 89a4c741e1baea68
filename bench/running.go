package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// running measures a sandbox that is up: memory and bulk.
func (b *bed) running(w io.Writer, runs int) error {
	ctx := context.Background()
	sb, err := sandbox.Create(ctx, "running", sandbox.Config{Ephemeral: true})
	if err != nil {
		return err
	}
	defer sb.Kill(ctx)
	if err := memory(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	const size = 64 << 20
	var in, out []float64
	for range max(runs/2, 1) {
		start := time.Now()
		cmd := sb.Shell(ctx, "cat >/dev/null")
		cmd.Stdin = io.LimitReader(zeroes{}, size)
		if err := cmd.Run(); err != nil {
			return err
		}
		in = append(in, size/1e6/time.Since(start).Seconds())
		start = time.Now()
		cmd = sb.Command(ctx, "head", "-c", strconv.Itoa(size), "/dev/zero")
		cmd.Stdout = io.Discard
		if err := cmd.Run(); err != nil {
			return err
		}
		out = append(out, size/1e6/time.Since(start).Seconds())
	}
	fmt.Fprintf(w, "bulk through a command's streams: in %.0f MB/s, out %.0f MB/s\n", median(in), median(out))
	return nil
}

// zeroes is an endless input.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }

// guestRAM is what the mapping of guest memory is counted as: it is told by its
// size.
const guestRAM = "guest RAM"

// monitorPID finds a sandbox's monitor by what it is called.
func monitorPID(name string) (string, error) {
	pid, err := exec.Command("pgrep", "-f", "^sandpit-monitor "+name+"$").Output()
	if err != nil {
		return "", fmt.Errorf("the monitor of %s is not found: %w", name, err)
	}
	return strings.TrimSpace(string(pid)), nil
}

// privateMemory is what a monitor's process has for itself, in KiB by kind of
// mapping (proc(5), /proc/PID/smaps).
func privateMemory(pid string, guestSize uint64) (map[string]int, error) {
	f, err := os.Open("/proc/" + pid + "/smaps")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	kinds := map[string]int{}
	var kind string
	s := bufio.NewScanner(f)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		switch {
		case fields[0] == "Private_Clean:" || fields[0] == "Private_Dirty:":
			kib, err := strconv.Atoi(fields[1])
			if err != nil {
				return nil, err
			}
			kinds[kind] += kib
		case strings.Contains(fields[0], "-") && !strings.HasSuffix(fields[0], ":"):
			kind = mappingKind(fields, guestSize)
		}
	}
	return kinds, s.Err()
}

// memory prints what the monitor's process has for itself.
func memory(w io.Writer) error {
	pid, err := monitorPID("running")
	if err != nil {
		return err
	}
	kinds, err := privateMemory(pid, sandbox.DefaultMemory<<20)
	if err != nil {
		return err
	}
	var total int
	for k, kib := range kinds {
		if k != guestRAM {
			total += kib
		}
	}
	fmt.Fprintf(w, "monitor's private memory beyond guest RAM: %.1f MiB\n", float64(total)/1024)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, k := range slices.Sorted(mapKeys(kinds)) {
		if kinds[k] > 0 {
			fmt.Fprintf(t, "%d KiB\t  %s\t\n", kinds[k], k)
		}
	}
	return t.Flush()
}

// mappingKind is what a line of smaps that opens a mapping is counted as.
func mappingKind(fields []string, guestSize uint64) string {
	from, to, _ := strings.Cut(fields[0], "-")
	start, _ := strconv.ParseUint(from, 16, 64)
	if end, err := strconv.ParseUint(to, 16, 64); err == nil && end-start >= guestSize {
		return guestRAM
	}
	if len(fields) < 6 {
		return "anonymous"
	}
	name := strings.Join(fields[5:], " ")
	switch {
	case strings.HasPrefix(name, "[anon: Go"):
		return strings.Trim(name, "[]")
	case strings.HasPrefix(name, "["), strings.HasPrefix(name, "anon_inode"):
		return name
	default:
		return "program file, " + map[bool]string{true: "written", false: "read only"}[strings.Contains(fields[1], "w")]
	}
}
