package agent

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Where the scripts of Setup are: on a file system of their own, made anew at
// each boot, so that they are neither part of the image nor of what is kept.
const (
	scriptsMount = "/.msb"
	scriptsDir   = scriptsMount + "/scripts"
)

// writeScripts makes the scripts, read only. Without scripts nothing is made.
func writeScripts(r *proto.SetupRequest) error {
	if len(r.GetScripts()) == 0 {
		return nil
	}
	if err := os.Mkdir(scriptsMount, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return &Error{Op: "scripts", Path: scriptsMount, Err: unwrapPath(err)}
	}
	// An image's symbolic link would have the mount hide another directory.
	if info, err := os.Lstat(scriptsMount); err != nil || !info.IsDir() {
		return &Error{Op: "scripts", Path: scriptsMount, Err: errString("the image has something else there, not a directory")}
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := mount("scripts", scriptsMount, "tmpfs", flags, fmt.Sprintf("mode=0755,size=%d", 2*proto.MaxScripts)); err != nil {
		return err
	}
	if err := os.Mkdir(scriptsDir, 0o755); err != nil {
		return err
	}
	for _, s := range r.GetScripts() {
		name := path.Join(scriptsDir, s.GetName())
		if err := os.WriteFile(name, s.GetContent(), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(name, 0o755); err != nil { // whatever the umask
			return err
		}
	}
	return mount("", scriptsMount, "", flags|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// validateScripts checks what Setup says of scripts.
func validateScripts(scripts []*proto.Script) error {
	size := 0
	for _, s := range scripts {
		if name := s.GetName(); name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
			return &Error{Op: "setup", Err: fmt.Errorf("script %q: not a file name", shorten(name))}
		}
		// Each is a page of memory at least.
		size += max(len(s.GetContent()), 4096)
	}
	if size > proto.MaxScripts {
		return &Error{Op: "setup", Err: fmt.Errorf("scripts of %d bytes: more than %d", size, proto.MaxScripts)}
	}
	return nil
}

// scriptsFirst puts the scripts before everything else in an environment's
// PATH.
func scriptsFirst(env []string) []string {
	for i, kv := range env {
		if old, ok := strings.CutPrefix(kv, "PATH="); ok && !strings.HasPrefix(old+":", scriptsDir+":") {
			env[i] = "PATH=" + scriptsDir + ":" + old
		}
	}
	return env
}
