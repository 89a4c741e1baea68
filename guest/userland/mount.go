package userland

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/u-root/u-root/pkg/mount"
	"golang.org/x/sys/unix"
)

// mountPoint is a line of /proc/self/mounts.
type mountPoint struct{ dev, dir, fstype, opts string }

func mounts() ([]mountPoint, error) {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var list []mountPoint
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 4 {
			list = append(list, mountPoint{unescape.Replace(f[0]), unescape.Replace(f[1]), f[2], f[3]})
		}
	}
	return list, nil
}

func df(c *command) {
	paths, ok := c.parse("ahHikmPTlt:x:B:", "all=a human-readable=h inodes=i portability=P print-type=T local=l type=t exclude-type=x")
	if !ok {
		return
	}
	list, err := mounts()
	if err != nil {
		c.fail("/proc/self/mounts", err)
		return
	}
	if len(paths) > 0 {
		var chosen []mountPoint
		for _, p := range paths {
			if m, err := mountOf(list, p); err != nil {
				c.fail(p, err)
			} else {
				chosen = append(chosen, m)
			}
		}
		list = chosen
	}
	show := func(n int64) string {
		switch {
		case c.opts.has('h') || c.opts.has('H'):
			return human(n)
		case c.opts.has('m'):
			return strconv.FormatInt((n+1<<20-1)>>20, 10)
		}
		return strconv.FormatInt((n+1023)>>10, 10)
	}
	head := []string{"Filesystem", "1K-blocks", "Used", "Available", "Use%", "Mounted on"}
	switch {
	case c.opts.has('i'):
		head = []string{"Filesystem", "Inodes", "IUsed", "IFree", "IUse%", "Mounted on"}
	case c.opts.has('h') || c.opts.has('H'):
		head[1], head[3] = "Size", "Avail"
	case c.opts.has('m'):
		head[1] = "1M-blocks"
	case c.opts.has('P'):
		head[1], head[4] = "1024-blocks", "Capacity"
	}
	rows := [][]string{head}
	seen := map[string]bool{}
	for _, m := range list {
		var st unix.Statfs_t
		if err := unix.Statfs(m.dir, &st); err != nil {
			continue
		}
		if len(paths) == 0 && (!c.opts.has('a') && (st.Blocks == 0 || seen[m.dir]) || c.opts.has('t') && m.fstype != c.opts.get('t', "") || m.fstype == c.opts.get('x', "\x00")) {
			continue
		}
		seen[m.dir] = true
		unit := int64(st.Frsize)
		if unit == 0 {
			unit = int64(st.Bsize)
		}
		total, free, avail := int64(st.Blocks)*unit, int64(st.Bfree)*unit, int64(st.Bavail)*unit
		used := total - free
		row := []string{m.dev, show(total), show(used), show(avail), percent(used, used+avail), m.dir}
		if c.opts.has('i') {
			n := int64(st.Files) - int64(st.Ffree)
			row = []string{m.dev, strconv.FormatUint(st.Files, 10), strconv.FormatInt(n, 10), strconv.FormatUint(st.Ffree, 10), percent(n, int64(st.Files)), m.dir}
		}
		if c.opts.has('T') {
			row = append([]string{row[0], m.fstype}, row[1:]...)
		}
		rows = append(rows, row)
	}
	shift := 0
	if c.opts.has('T') {
		rows[0] = append([]string{head[0], "Type"}, head[1:]...)
		shift = 1
	}
	c.table(rows, func(i int) bool { return i > shift && i < 5+shift })
}

func percent(used, total int64) string {
	if total <= 0 {
		return "-"
	}
	return strconv.FormatInt((used*100+total-1)/total, 10) + "%"
}

// mountOf finds the mount that holds a path: the last one listed on its device
// whose directory is a prefix.
func mountOf(list []mountPoint, p string) (mountPoint, error) {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return mountPoint{}, &os.PathError{Op: "stat", Path: p, Err: err}
	}
	real, err := canonicalize(p, 'f')
	if err != nil {
		return mountPoint{}, err
	}
	best := mountPoint{dev: "-", dir: "/"}
	for _, m := range list {
		if (m.dir == "/" || real == m.dir || strings.HasPrefix(real, m.dir+"/")) && len(m.dir) >= len(best.dir) {
			best = m
		}
	}
	return best, nil
}

// mountCmd mounts through u-root's mount package, which finds the file
// system's type where none is given.
func mountCmd(c *command) {
	args, ok := c.parse("t:o:rwnvaBRM", "types=t options=o read-only=r bind=B rbind=R move=M")
	if !ok {
		return
	}
	if len(args) == 0 {
		list, err := mounts()
		if err != nil {
			c.fail("/proc/self/mounts", err)
		}
		for _, m := range list {
			if t := c.opts.get('t', m.fstype); t == m.fstype {
				fmt.Fprintf(c.out, "%s on %s type %s (%s)\n", m.dev, m.dir, m.fstype, m.opts)
			}
		}
		return
	}
	flags, data, loop := mountOptions(strings.Join(c.opts.values['o'], ","))
	switch {
	case c.opts.has('B'):
		flags |= unix.MS_BIND
	case c.opts.has('R'):
		flags |= unix.MS_BIND | unix.MS_REC
	case c.opts.has('M'):
		flags |= unix.MS_MOVE
	}
	if c.opts.has('r') {
		flags |= unix.MS_RDONLY
	}
	fstype := c.opts.get('t', "")
	var src, dst string
	switch {
	case len(args) == 1 && flags&unix.MS_REMOUNT != 0:
		src, dst = "none", args[0]
	case len(args) == 2:
		src, dst = args[0], args[1]
	default:
		c.usage("[-t type] [-o options] [device] directory")
		return
	}
	var err error
	switch {
	case loop:
		err = fmt.Errorf("loop devices are not supported here")
	case flags&(unix.MS_BIND|unix.MS_MOVE|unix.MS_REMOUNT|unix.MS_SHARED|unix.MS_PRIVATE|unix.MS_SLAVE) != 0:
		err = unix.Mount(src, dst, fstype, flags, data)
		if err == nil && flags&unix.MS_BIND != 0 && flags&unix.MS_RDONLY != 0 && flags&unix.MS_REMOUNT == 0 {
			err = unix.Mount("none", dst, "", flags|unix.MS_REMOUNT, "") // a bind takes flags only then
		}
	case fstype == "" || fstype == "auto":
		_, err = mount.TryMount(src, dst, data, flags)
	default:
		_, err = mount.Mount(src, dst, fstype, data, flags)
	}
	if err != nil {
		c.errorf("mounting %s on %s failed: %v", src, dst, reason(err))
		c.status = 32
	}
}

func mountOptions(list string) (flags uintptr, data string, loop bool) {
	var rest []string
	for o := range strings.SplitSeq(list, ",") {
		switch o {
		case "", "defaults", "rw", "auto", "noauto", "user", "nouser", "_netdev", "nofail":
		case "ro":
			flags |= unix.MS_RDONLY
		case "nosuid":
			flags |= unix.MS_NOSUID
		case "nodev":
			flags |= unix.MS_NODEV
		case "noexec":
			flags |= unix.MS_NOEXEC
		case "sync":
			flags |= unix.MS_SYNCHRONOUS
		case "remount":
			flags |= unix.MS_REMOUNT
		case "bind":
			flags |= unix.MS_BIND
		case "rbind":
			flags |= unix.MS_BIND | unix.MS_REC
		case "move":
			flags |= unix.MS_MOVE
		case "noatime":
			flags |= unix.MS_NOATIME
		case "nodiratime":
			flags |= unix.MS_NODIRATIME
		case "relatime":
			flags |= unix.MS_RELATIME
		case "private":
			flags |= unix.MS_PRIVATE
		case "rprivate":
			flags |= unix.MS_PRIVATE | unix.MS_REC
		case "shared":
			flags |= unix.MS_SHARED
		case "rshared":
			flags |= unix.MS_SHARED | unix.MS_REC
		case "slave":
			flags |= unix.MS_SLAVE
		case "rslave":
			flags |= unix.MS_SLAVE | unix.MS_REC
		case "loop":
			loop = true
		default:
			rest = append(rest, o)
		}
	}
	return flags, strings.Join(rest, ","), loop
}

func umount(c *command) {
	args, ok := c.parse("flnrR", "force=f lazy=l")
	if !ok {
		return
	}
	for _, a := range args {
		if err := mount.Unmount(a, c.opts.has('f'), c.opts.has('l')); err != nil {
			c.errorf("%s: %v", a, reason(err))
			c.status = 32
		}
	}
}
