package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// crowdMemory is the guests' memory in MiB: the least there is, for it does not
// count.
const crowdMemory = sandbox.MinMemory

// crowd measures what many sandboxes at once take beyond their guests' memory.
func (b *bed) crowd(w io.Writer) (err error) {
	ctx := context.Background()
	var all []*sandbox.Sandbox
	defer func() {
		for _, sb := range all {
			err = errors.Join(err, sb.Kill(ctx))
		}
	}()
	// The first one has the caches filled: it counts neither before nor after.
	add := func() error {
		sb, err := sandbox.Create(ctx, fmt.Sprintf("crowd-%d", len(all)), sandbox.Config{Memory: crowdMemory, Ephemeral: true})
		if err != nil {
			return err
		}
		all = append(all, sb)
		return sb.Command(ctx, "true").Run()
	}
	if err := add(); err != nil {
		return err
	}
	before, err := hostUse()
	if err != nil {
		return err
	}
	start := time.Now()
	for range b.many {
		if err := add(); err != nil {
			return fmt.Errorf("sandbox %d: %w", len(all), err)
		}
	}
	took := time.Since(start)
	// All of them answer, now that all of them run.
	for _, sb := range all {
		if err := sb.Command(ctx, "true").Run(); err != nil {
			return fmt.Errorf("%s of %d: %w", sb.Name(), len(all), err)
		}
	}
	after, err := hostUse()
	if err != nil {
		return err
	}
	var guests, private, most, tables int64
	for _, sb := range all[1:] {
		own, err := ownMemory(sb.Name())
		if err != nil {
			return err
		}
		guests += own.guest
		private += own.private
		most = max(most, own.private)
		tables += own.tables
	}
	return b.printCrowd(w, took, crowdUse{
		host: after.less(before), guests: guests, private: private, most: most, tables: tables,
	})
}

// crowdUse is what all sandboxes together take, in bytes.
type crowdUse struct {
	host                          hostUsage
	guests, private, most, tables int64
}

func (b *bed) printCrowd(w io.Writer, took time.Duration, u crowdUse) error {
	n := int64(b.many)
	kib := func(bytes int64) string { return fmt.Sprintf("%.0f KiB", float64(bytes)/float64(n)/1024) }
	total := u.host.used - u.guests
	fmt.Fprintf(w, "%d sandboxes at once, %d MiB each, created one after the other in %.1f s; one more was there before:\n", n, crowdMemory, took.Seconds())
	fmt.Fprintf(w, "the host's memory beyond guest RAM: %s each, target: at most 12 MiB; guest RAM in use: %s each\n", mib(total/n), mib(u.guests/n))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	rest := total
	row := func(bytes int64, name string) {
		fmt.Fprintf(t, "%s\t  %s\t\n", kib(bytes), name)
		rest -= bytes
	}
	row(u.private, fmt.Sprintf("monitor's private pages (the most: %s)", mib(u.most)))
	row(u.host.pageTables, "page tables of processes")
	row(u.host.kvmTables, "page tables of KVM and the IOMMU")
	row(u.host.stacks, "kernel stacks")
	row(u.host.slab, "slab that cannot be reclaimed")
	row(u.host.shmem, "tmpfs: the home, if it lies there")
	fmt.Fprintf(t, "%s\t  %s\t\n", kib(rest), "the rest")
	return t.Flush()
}

// hostUsage is part of /proc/meminfo (proc(5)), in bytes.
type hostUsage struct {
	used                                       int64 // what is not available any more
	pageTables, kvmTables, stacks, slab, shmem int64
}

func hostUse() (hostUsage, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return hostUsage{}, err
	}
	defer f.Close()
	m, err := kibFields(f)
	if err != nil {
		return hostUsage{}, err
	}
	return hostUsage{
		used: m["MemTotal"] - m["MemAvailable"], pageTables: m["PageTables"], kvmTables: m["SecPageTables"],
		stacks: m["KernelStack"], slab: m["SUnreclaim"], shmem: m["Shmem"],
	}, nil
}

func (u hostUsage) less(v hostUsage) hostUsage {
	return hostUsage{u.used - v.used, u.pageTables - v.pageTables, u.kvmTables - v.kvmTables, u.stacks - v.stacks, u.slab - v.slab, u.shmem - v.shmem}
}

// kibFields are the lines "Name: 123 kB", in bytes.
func kibFields(r io.Reader) (map[string]int64, error) {
	m := map[string]int64{}
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return nil, err
		}
		m[strings.TrimSuffix(f[0], ":")] += kib << 10
	}
	return m, s.Err()
}

// monitorUse is what one monitor has for itself, in bytes.
type monitorUse struct{ guest, private, tables int64 }

// ownMemory is the memory of a sandbox's monitor.
func ownMemory(name string) (monitorUse, error) {
	pid, err := monitorPID(name)
	if err != nil {
		return monitorUse{}, err
	}
	kinds, err := privateMemory(pid, crowdMemory<<20)
	if err != nil {
		return monitorUse{}, err
	}
	var u monitorUse
	for kind, kib := range kinds {
		if kind == guestRAM {
			u.guest += int64(kib) << 10
		} else {
			u.private += int64(kib) << 10
		}
	}
	f, err := os.Open(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return monitorUse{}, err
	}
	defer f.Close()
	m, err := kibFields(f)
	u.tables = m["VmPTE"]
	return u, err
}
