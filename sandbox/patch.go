package sandbox

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Patch is a change of the root file system, made before the first command
// runs. Patches are applied in order. Links of the image are followed where
// they lead inside the root file system; none leads a patch out of it, nor
// into /proc, /sys or /dev. Missing parents are made, mode 0755, root's.
type Patch struct {
	Kind PatchKind
	// Path is the target in the guest, absolute.
	Path string
	// Content is what a PatchFile holds and a PatchAppend adds.
	Content string
	// Source is the file or directory of the host that is copied.
	Source string
	// Target is where a PatchSymlink points; it need not exist.
	Target string
	// Mode is permission bits with fs.ModeSetuid, ModeSetgid and ModeSticky.
	// Default 0644 for files, 0755 for directories, the source's for copies.
	Mode fs.FileMode
	// UID and GID own what is made. Default root.
	UID, GID int
	// Replace removes what is in the way first. Without it an existing target
	// is an error, but for PatchMkdir and PatchRemove.
	Replace bool
}

// PatchKind is what a Patch does.
type PatchKind string

// The kinds of patches.
const (
	// PatchFile makes a file of Content.
	PatchFile PatchKind = "file"
	// PatchAppend adds Content to a file that exists; its mode and owner stay.
	PatchAppend PatchKind = "append"
	// PatchCopyFile copies the host's file Source.
	PatchCopyFile PatchKind = "copy-file"
	// PatchCopyDir copies the host's directory Source with all that is in it:
	// files, directories and symbolic links, which are not followed. The modes
	// are the source's, Mode is the top directory's.
	PatchCopyDir PatchKind = "copy-dir"
	// PatchSymlink makes a symbolic link to Target.
	PatchSymlink PatchKind = "symlink"
	// PatchMkdir makes a directory and its parents. One that exists is fine.
	PatchMkdir PatchKind = "mkdir"
	// PatchRemove removes a file, or a directory with all that is in it. There
	// being none is fine.
	PatchRemove PatchKind = "remove"
)

const patchModeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

func checkPatches(bad *ConfigError, patches []Patch) {
	for i, p := range patches {
		field := fmt.Sprintf("Patches[%d]", i)
		if !strings.HasPrefix(p.Path, "/") || strings.ContainsRune(p.Path, 0) || path.Clean(p.Path) == "/" {
			bad.add(field, "path %q: want an absolute path below /", p.Path)
		}
		if p.Mode&^patchModeBits != 0 {
			bad.add(field, "mode %v: want permission, setuid, setgid and sticky bits only", p.Mode)
		}
		if p.UID < 0 || p.GID < 0 || uint64(p.UID) >= 1<<32 || uint64(p.GID) >= 1<<32 {
			bad.add(field, "owner %d:%d: want numbers of 32 bits", p.UID, p.GID)
		}
		switch p.Kind {
		case PatchFile, PatchAppend, PatchMkdir, PatchRemove:
		case PatchSymlink:
			if p.Target == "" || len(p.Target) > 4095 || strings.ContainsRune(p.Target, 0) {
				bad.add(field, "link target %q: want 1 to 4095 bytes", p.Target)
			}
		case PatchCopyFile:
			checkSource(bad, field, p.Source, os.FileMode.IsRegular, "a regular file")
		case PatchCopyDir:
			checkSource(bad, field, p.Source, os.FileMode.IsDir, "a directory")
		default:
			bad.add(field, "unknown kind %q", p.Kind)
		}
	}
}

func checkSource(bad *ConfigError, field, source string, is func(os.FileMode) bool, what string) {
	switch info, err := os.Stat(source); {
	case err != nil:
		bad.add(field, "source: %v", err)
	case !is(info.Mode()):
		bad.add(field, "source %s: not %s", source, what)
	}
}

// patcher sends patches to the agent.
type patcher struct {
	ctx   context.Context
	agent proto.AgentClient
	buf   []byte
	limit time.Duration // of an answer
	stall *time.Timer   // runs while the guest has to give one
}

// patchStall is how long the guest may take for one request: it may have to
// remove a large tree.
const patchStall = 2 * time.Minute

// applyPatches makes the changes and ends the agent's hold. When ctx ends, or
// the guest is silent, the monitor is killed: a guest that takes nothing off
// its socket would keep the call from returning for ever.
func (s *Sandbox) applyPatches(ctx context.Context, patches []Patch) error {
	agent, err := s.agentClient(ctx)
	if err != nil {
		return err
	}
	return patchAll(ctx, agent, patches, patchStall, func() { s.process.Kill() })
}

func patchAll(ctx context.Context, agent proto.AgentClient, patches []Patch, stall time.Duration, kill func()) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, kill)
	defer func() {
		if !stop() && err != nil {
			err = context.Cause(ctx) // what came of it does not matter
		}
	}()
	p := patcher{ctx: ctx, agent: agent, limit: stall}
	p.stall = time.AfterFunc(stall, func() { cancel(fmt.Errorf("the guest did not answer within %v", stall)) })
	defer p.stall.Stop()
	p.stall.Stop()
	for i, patch := range patches {
		if err := p.apply(patch); err != nil {
			return fmt.Errorf("patch %d (%s): %w", i, patch.Path, err)
		}
	}
	return p.send(&proto.PatchRequest{Done: true})
}

func (p *patcher) send(r *proto.PatchRequest) error {
	p.stall.Reset(p.limit)
	_, err := p.agent.Patch(p.ctx, r)
	p.stall.Stop()
	if s, ok := status.FromError(err); ok && err != nil {
		return fmt.Errorf("the guest: %.1000s", s.Message())
	}
	return err
}

func (p *patcher) apply(patch Patch) error {
	r := &proto.PatchRequest{
		Path: patch.Path, Target: patch.Target, Replace: patch.Replace,
		HasMode: patch.Mode != 0, Mode: unixMode(patch.Mode),
		HasOwner: patch.UID != 0 || patch.GID != 0, Uid: uint32(patch.UID), Gid: uint32(patch.GID),
	}
	switch patch.Kind {
	case PatchFile:
		r.Kind = proto.PatchRequest_FILE
		return p.stream(r, strings.NewReader(patch.Content))
	case PatchAppend:
		r.Kind = proto.PatchRequest_APPEND
		return p.stream(r, strings.NewReader(patch.Content))
	case PatchSymlink:
		r.Kind = proto.PatchRequest_SYMLINK
	case PatchMkdir:
		r.Kind = proto.PatchRequest_MKDIR
	case PatchRemove:
		r.Kind = proto.PatchRequest_REMOVE
	case PatchCopyFile:
		f, err := os.OpenFile(patch.Source, openQuickly, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		return p.copyFile(r, f)
	case PatchCopyDir:
		return p.copyDir(r, patch.Source)
	}
	return p.send(r)
}

// stream sends a file, a piece at a time.
func (p *patcher) stream(r *proto.PatchRequest, content io.Reader) error {
	if p.buf == nil {
		p.buf = make([]byte, proto.MaxPatchData)
	}
	for first := true; ; first = false {
		n, err := io.ReadFull(content, p.buf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		end := err != nil
		if n > 0 || first {
			r.Data = p.buf[:n]
			if err := p.send(r); err != nil {
				return err
			}
			r = &proto.PatchRequest{Kind: proto.PatchRequest_DATA}
		}
		if end {
			return nil
		}
	}
}

// openQuickly opens what was a regular file when it was looked at, and should
// it be a FIFO by now, without waiting for its writer.
const openQuickly = os.O_RDONLY | unix.O_NONBLOCK

func (p *patcher) copyFile(r *proto.PatchRequest, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", f.Name())
	}
	r.Kind = proto.PatchRequest_FILE
	keepMode(r, info.Mode())
	return p.stream(r, f)
}

// keepMode gives a copy its source's mode unless another was asked for.
func keepMode(r *proto.PatchRequest, mode fs.FileMode) {
	if !r.GetHasMode() {
		r.HasMode, r.Mode = true, unixMode(mode)
	}
}

// copyDir copies a tree. It is walked beneath an open directory, so that what
// changes in it meanwhile cannot lead elsewhere.
func (p *patcher) copyDir(top *proto.PatchRequest, source string) error {
	root, err := os.OpenRoot(source)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		r := &proto.PatchRequest{
			Path:     path.Join(top.GetPath(), name),
			HasOwner: top.GetHasOwner(), Uid: top.GetUid(), Gid: top.GetGid(),
		}
		switch mode := info.Mode(); mode.Type() {
		case fs.ModeDir:
			r.Kind = proto.PatchRequest_MKDIR
			if name == "." {
				r.MustCreate, r.Replace = true, top.GetReplace()
				r.HasMode, r.Mode = top.GetHasMode(), top.GetMode()
			}
			keepMode(r, mode)
			return p.send(r)
		case fs.ModeSymlink:
			r.Kind = proto.PatchRequest_SYMLINK
			if r.Target, err = root.Readlink(name); err != nil {
				return err
			}
			return p.send(r)
		case 0:
			f, err := root.OpenFile(name, openQuickly, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			return p.copyFile(r, f)
		}
		return fmt.Errorf("%s: neither a file, a directory nor a symbolic link", filepath.Join(source, name))
	})
}

// unixMode is a mode as the kernel has it.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		mode |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}
