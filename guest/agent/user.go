package agent

import (
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// maxDatabase bounds how much of /etc/passwd or /etc/group is read.
const maxDatabase = 4 << 20

// account is who a command runs as.
type account struct {
	name   string
	home   string
	uid    uint32
	gid    uint32
	groups []uint32 // supplementary
}

// lookupAccount resolves a user as ExecStart.user has it: "", name, uid,
// name:group or uid:gid. A name is looked for before a number; a number that
// is in no database is taken as it is. With a group given there are no
// supplementary groups.
func lookupAccount(user, passwdFile, groupFile string) (account, error) {
	if strings.IndexByte(user, 0) >= 0 || len(user) > 256 {
		return account{}, fail(proto.StartFailure_UNKNOWN_USER, nil, "user %q is not a name", shorten(user))
	}
	userArg, groupArg, hasGroup := strings.Cut(user, ":")
	if userArg == "" {
		userArg = "0"
	}
	a, err := findUser(userArg, passwdFile)
	if err != nil {
		return account{}, err
	}
	groups, err := readDatabase(groupFile)
	if err != nil {
		return account{}, err
	}
	if hasGroup && groupArg != "" {
		gid, err := findGroup(groupArg, groups)
		if err != nil {
			return account{}, err
		}
		a.gid = gid
		return a, nil
	}
	if a.name != "" {
		a.groups = memberships(a.name, a.gid, groups)
	}
	return a, nil
}

func findUser(arg, file string) (account, error) {
	lines, err := readDatabase(file)
	if err != nil {
		return account{}, err
	}
	number, isNumber := parseUint32(arg)
	var byNumber *account
	for _, f := range lines {
		if len(f) < 6 {
			continue
		}
		uid, ok1 := parseUint32(f[2])
		gid, ok2 := parseUint32(f[3])
		if !ok1 || !ok2 {
			continue
		}
		a := account{name: f[0], uid: uid, gid: gid, home: f[5]}
		if f[0] == arg {
			return a, nil
		}
		if isNumber && uid == number && byNumber == nil {
			byNumber = &a
		}
	}
	switch {
	case byNumber != nil:
		return *byNumber, nil
	case isNumber && number == 0:
		return account{name: "root", home: "/root"}, nil
	case isNumber:
		return account{uid: number, home: "/"}, nil
	}
	return account{}, fail(proto.StartFailure_UNKNOWN_USER, nil, "unknown user %q", shorten(arg))
}

func findGroup(arg string, lines [][]string) (uint32, error) {
	for _, f := range lines {
		if len(f) >= 3 && f[0] == arg {
			if gid, ok := parseUint32(f[2]); ok {
				return gid, nil
			}
		}
	}
	if gid, ok := parseUint32(arg); ok {
		return gid, nil
	}
	return 0, fail(proto.StartFailure_UNKNOWN_USER, nil, "unknown group %q", shorten(arg))
}

// memberships lists the groups that name a user, without the primary one.
func memberships(name string, primary uint32, lines [][]string) []uint32 {
	var out []uint32
	for _, f := range lines {
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), name) {
			continue
		}
		gid, ok := parseUint32(f[2])
		if ok && gid != primary && !slices.Contains(out, gid) && len(out) < 65536 {
			out = append(out, gid)
		}
	}
	return out
}

func parseUint32(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1 // -1 means "no change" to setresuid
}

// readDatabase splits a colon-separated file; a missing one is empty.
func readDatabase(file string) ([][]string, error) {
	data, err := readSmall(file, maxDatabase)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fail(proto.StartFailure_UNKNOWN_USER, err, "read %s", file)
	}
	var out [][]string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		out = append(out, strings.Split(line, ":"))
	}
	return out, nil
}

// readSmall reads a regular file of at most max bytes. The image may have put
// a FIFO or a device there: those are refused and never waited for.
func readSmall(file string, max int64) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > max {
		return nil, &Error{Op: "read", Path: file, Err: unix.EFBIG}
	}
	return io.ReadAll(io.LimitReader(f, max))
}
