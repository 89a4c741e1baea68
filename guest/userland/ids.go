package userland

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// record is a line of /etc/passwd or /etc/group.
type record []string

// findRecord returns the first line of a colon-separated file that matches.
func findRecord(path string, match func(record) bool) record {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if r := strings.Split(sc.Text(), ":"); len(r) >= 3 && match(r) {
			return r
		}
	}
	return nil
}

func passwdByName(name string) record {
	return findRecord("/etc/passwd", func(r record) bool { return r[0] == name && len(r) >= 7 })
}

func passwdByID(uid int) record {
	id := strconv.Itoa(uid)
	return findRecord("/etc/passwd", func(r record) bool { return r[2] == id && len(r) >= 7 })
}

func userName(uid int) string {
	if r := passwdByID(uid); r != nil {
		return r[0]
	}
	return strconv.Itoa(uid)
}

func groupName(gid int) string {
	id := strconv.Itoa(gid)
	if r := findRecord("/etc/group", func(r record) bool { return r[2] == id }); r != nil {
		return r[0]
	}
	return id
}

var errUnknown = errors.New("unknown name")

func userID(name string) (int, error) {
	if r := passwdByName(name); r != nil {
		return strconv.Atoi(r[2])
	}
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return int(n), nil
	}
	return -1, errUnknown
}

func groupID(name string) (int, error) {
	if r := findRecord("/etc/group", func(r record) bool { return r[0] == name }); r != nil {
		return strconv.Atoi(r[2])
	}
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return int(n), nil
	}
	return -1, errUnknown
}

// primaryGroup is the group that /etc/passwd gives a user, or -1.
func primaryGroup(uid int) int {
	if r := passwdByID(uid); r != nil {
		if n, err := strconv.Atoi(r[3]); err == nil {
			return n
		}
	}
	return -1
}

// groupsOf lists the groups that name a user as a member, the primary first.
func groupsOf(user string, primary int) []int {
	list := []int{primary}
	findRecord("/etc/group", func(r record) bool {
		if n, err := strconv.Atoi(r[2]); err == nil && len(r) > 3 && slices.Contains(strings.Split(r[3], ","), user) && !slices.Contains(list, n) {
			list = append(list, n)
		}
		return false
	})
	return list
}

func id(c *command) {
	args, ok := c.parse("ugGnra", "user=u group=g groups=G name=n real=r")
	if !ok {
		return
	}
	uid, gid := os.Geteuid(), os.Getegid()
	if c.opts.has('r') {
		uid, gid = os.Getuid(), os.Getgid()
	}
	var groups []int
	if len(args) > 0 {
		n, err := userID(args[0])
		if err != nil {
			c.errorf("'%s': no such user", args[0])
			return
		}
		uid, gid = n, max(primaryGroup(n), 0)
		groups = groupsOf(userName(n), gid)
	} else {
		groups, _ = os.Getgroups()
		groups = slices.DeleteFunc(groups, func(g int) bool { return g == gid })
		groups = append([]int{gid}, groups...)
	}
	if c.name == "groups" {
		c.opts.values['G'], c.opts.values['n'] = []string{""}, []string{""}
	}
	name := c.opts.has('n')
	one := func(id int, find func(int) string) string {
		if name {
			return find(id)
		}
		return strconv.Itoa(id)
	}
	switch {
	case c.opts.has('u'):
		fmt.Fprintln(c.out, one(uid, userName))
	case c.opts.has('g'):
		fmt.Fprintln(c.out, one(gid, groupName))
	case c.opts.has('G'):
		var list []string
		for _, g := range groups {
			list = append(list, one(g, groupName))
		}
		fmt.Fprintln(c.out, strings.Join(list, " "))
	default:
		var list []string
		for _, g := range groups {
			list = append(list, fmt.Sprintf("%d(%s)", g, groupName(g)))
		}
		fmt.Fprintf(c.out, "uid=%d(%s) gid=%d(%s) groups=%s\n", uid, userName(uid), gid, groupName(gid), strings.Join(list, ","))
	}
}

func whoami(c *command) { fmt.Fprintln(c.out, userName(os.Geteuid())) }
