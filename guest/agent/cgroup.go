package agent

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is the directory of the cgroup v2 hierarchy under which every exec
// gets a group of its own. It is held open: a guest that unmounts or hides
// /sys/fs/cgroup does not take it away.
type cgroups struct {
	root *os.Root

	mu     sync.Mutex
	linger map[string]struct{} // groups that outlive their exec: background processes
}

// openCgroups makes the directory. The guest's own groups get all controllers
// that the kernel has; those of execs only memory, to tell of its lack: every
// controller more makes the start of an exec slower.
func openCgroups(mount, name string) (*cgroups, error) {
	delegate(mount)
	dir := mount + "/" + name
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return nil, err
	}
	enable(dir, "memory")
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &cgroups{root: root, linger: map[string]struct{}{}}, nil
}

// delegate enables in a group's children all controllers that it has, one at
// a time, since one refusal would refuse them all.
func delegate(dir string) {
	have, err := os.ReadFile(dir + "/cgroup.controllers")
	if err != nil {
		return
	}
	for c := range strings.FieldsSeq(string(have)) {
		enable(dir, c)
	}
}

// enable gives a controller to a group's children, if the kernel has it.
func enable(dir, controller string) {
	_ = os.WriteFile(dir+"/cgroup.subtree_control", []byte("+"+controller), 0)
}

func (c *cgroups) Close() error { return c.root.Close() }

// cgroup is the group of one exec.
type cgroup struct {
	parent *cgroups
	name   string
	dir    *os.File
}

func (c *cgroups) create(name string) (*cgroup, error) {
	c.sweep()
	if err := c.root.Mkdir(name, 0o755); err != nil {
		return nil, err
	}
	dir, err := c.root.Open(name)
	if err != nil {
		_ = c.root.Remove(name)
		return nil, err
	}
	return &cgroup{parent: c, name: name, dir: dir}, nil
}

// sweep removes groups whose background processes have ended.
func (c *cgroups) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.linger {
		if err := c.root.Remove(name); err == nil || os.IsNotExist(err) {
			delete(c.linger, name)
		}
	}
}

// killAll ends every process of every exec.
func (c *cgroups) killAll() error {
	f, err := c.root.OpenFile("cgroup.kill", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("1")
	return err
}

// kill ends every process in the group and below it, however they fork.
func (g *cgroup) kill() error {
	f, err := g.open("cgroup.kill", unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("1")
	return err
}

// oomKilled reports whether the kernel killed a process of the group.
func (g *cgroup) oomKilled() bool { return g.field("memory.events", "oom_kill") > 0 }

// usage is the CPU time of all processes that the group has had.
func (g *cgroup) usage() (user, system time.Duration, ok bool) {
	u, s := g.field("cpu.stat", "user_usec"), g.field("cpu.stat", "system_usec")
	return time.Duration(u) * time.Microsecond, time.Duration(s) * time.Microsecond, u >= 0 && s >= 0
}

// field reads "name value" from a file of the group; -1 if it is not there.
func (g *cgroup) field(file, name string) int64 {
	f, err := g.open(file, unix.O_RDONLY)
	if err != nil {
		return -1
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
				return n
			}
		}
	}
	return -1
}

func (g *cgroup) open(file string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(g.dir.Fd()), file, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), file), nil
}

// remove lets go of the group. One that still has processes stays until they
// have ended.
func (g *cgroup) remove() {
	g.dir.Close()
	err := g.parent.root.Remove(g.name)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		g.parent.mu.Lock()
		g.parent.linger[g.name] = struct{}{}
		g.parent.mu.Unlock()
	}
}
