package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// defaultPath is the PATH of a command whose environment has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds the file of a command. A name with a slash is taken as it
// is; another is looked for in PATH, relative entries meaning dir. access is
// asked about every candidate (nil: it can be run).
func lookPath(name, path, dir string, access func(string) error) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var denied error
	for _, d := range strings.Split(path, ":") {
		if d == "" {
			d = "."
		}
		candidate := d + "/" + name
		if !filepath.IsAbs(candidate) {
			candidate = dir + "/" + candidate
		}
		err := access(candidate)
		if err == nil {
			return candidate, nil
		}
		if errors.Is(err, unix.EACCES) && denied == nil {
			denied = fail(proto.StartFailure_PERMISSION, err, "%s", candidate)
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", fail(proto.StartFailure_NOT_FOUND, syscall.ENOENT, "%s: not found in PATH", shorten(name))
}

// accessMode judges a file by its mode: a regular file that someone may
// execute. Root's view, and the only one the agent itself has.
func accessMode(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return unix.EACCES
	}
	return nil
}

// accessReal asks the kernel, with the calling process's own identity.
func accessReal(file string) error {
	if err := accessMode(file); err != nil {
		return err
	}
	return unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS)
}

// execFailure says why execve refused a file.
func execFailure(file string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		if _, statErr := os.Stat(file); statErr == nil {
			return fail(proto.StartFailure_NOT_FOUND, err, "%s exists, but the interpreter or loader that it names does not", file)
		}
		return fail(proto.StartFailure_NOT_FOUND, err, "%s", file)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EISDIR):
		return fail(proto.StartFailure_PERMISSION, err, "%s", file)
	case errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.ELIBBAD), errors.Is(err, unix.EINVAL):
		return fail(proto.StartFailure_NOT_EXECUTABLE, err, "%s", file)
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ELOOP):
		return fail(proto.StartFailure_BAD_ARGS, err, "%s", shorten(file))
	case errors.Is(err, unix.EAGAIN):
		return fail(proto.StartFailure_RLIMIT, err, "%s: the limit nproc", file)
	}
	return fail(proto.StartFailure_OTHER, err, "%s", file)
}

// mergeEnv lays environments over one another; the last of a name wins.
func mergeEnv(layers ...[]string) []string {
	var out []string
	at := map[string]int{}
	for _, layer := range layers {
		for _, kv := range layer {
			name, _, _ := strings.Cut(kv, "=")
			if i, ok := at[name]; ok {
				out[i] = kv
				continue
			}
			at[name] = len(out)
			out = append(out, kv)
		}
	}
	return out
}

func getenv(env []string, name string) string {
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v
		}
	}
	return ""
}
