package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// CopyOptions says how files and trees are copied. The zero value copies
// contents, permissions, times of modification and symbolic links, which are
// not followed; what is made belongs to root in the guest, to this process on
// the host. Several names of one file become several files.
type CopyOptions struct {
	// KeepOwner keeps owners, by number. On the host it needs root.
	KeepOwner bool
	// KeepSetuid keeps setuid and setgid bits, which are dropped otherwise.
	KeepSetuid bool
	// FollowSource copies what the source points at if it is itself a symbolic
	// link. Links below it are copied as links all the same.
	FollowSource bool
	// Skipped is called with the name of everything that is neither a file, a
	// directory nor a symbolic link, and the copy goes on without. Nil: it is
	// an error.
	Skipped func(name string)
	// MaxEntries and MaxBytes bound what CopyToHost takes from the guest: files,
	// directories and links, and bytes of contents, in blocks of 4096 as they
	// take room on a disk, holes not counted. Default a million entries; bytes
	// are bounded by the host's disk only.
	MaxEntries int
	MaxBytes   int64
}

// defaultMaxEntries bounds a tree that the guest makes up.
const defaultMaxEntries = 1_000_000

var (
	errTooManyFiles = errors.New("the tree has more entries than CopyOptions.MaxEntries allows")
	errTooManyBytes = errors.New("the tree holds more than CopyOptions.MaxBytes allows")
	errNotPlain     = errors.New("neither a file, a directory nor a symbolic link")
)

// check refuses options that cannot be.
func (o *CopyOptions) check() error {
	bad := &ConfigError{}
	if o.MaxEntries < 0 {
		bad.add("MaxEntries", "%d: want a positive number, or 0 for %d", o.MaxEntries, defaultMaxEntries)
	}
	if o.MaxBytes < 0 {
		bad.add("MaxBytes", "%d: want a positive number, or 0 for no limit", o.MaxBytes)
	}
	return bad.orNil()
}

// mode is the mode of a copy, type bits cleared.
func (o *CopyOptions) mode(m fs.FileMode) fs.FileMode {
	m &= fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if !o.KeepSetuid {
		m &^= fs.ModeSetuid | fs.ModeSetgid
	}
	return m
}

// special handles what is not copied.
func (o *CopyOptions) special(name string) error {
	if o.Skipped == nil {
		return &fs.PathError{Op: "copy", Path: name, Err: errNotPlain}
	}
	o.Skipped(name)
	return nil
}

// guestCopy is a tree copy's way to the guest: one session, its requests
// pipelined. What is asked for without waiting is checked in order, later.
type guestCopy struct {
	fs      *FS
	ctx     context.Context
	opt     CopyOptions
	session *proto.FileSession
	flight  []pendingCall
}

// pendingCall is a request whose answer is still to be looked at.
type pendingCall struct {
	call *proto.FileCall
	done func(*proto.FileResponse, error) error
}

func newGuestCopy(ctx context.Context, f *FS, opt CopyOptions) (*guestCopy, error) {
	s, err := f.session(ctx)
	if err != nil {
		return nil, err
	}
	return &guestCopy{fs: f, ctx: ctx, opt: opt, session: s}, nil
}

// do waits for one answer, and has looked at all before it.
func (c *guestCopy) do(op, name string, r *proto.FileRequest) (*proto.FileResponse, error) {
	if err := c.settle(0); err != nil {
		return nil, err
	}
	if len(r.GetPath()) > maxGuestName || len(r.GetTarget()) > maxLinkTarget {
		return nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENAMETOOLONG}
	}
	resp, err := c.session.Do(r)
	return resp, c.fs.pathError(op, name, err)
}

// start asks and goes on; done is called with the answer, by the goroutine that
// copies.
func (c *guestCopy) start(r *proto.FileRequest, done func(*proto.FileResponse, error) error) error {
	if err := c.settle(proto.Window - 1); err != nil {
		return err
	}
	c.flight = append(c.flight, pendingCall{c.session.Start(r), done})
	return nil
}

// settle looks at the oldest answers until no more than so many are left.
func (c *guestCopy) settle(left int) error {
	for len(c.flight) > left {
		p := c.flight[0]
		c.flight = c.flight[1:]
		resp, err := p.call.Wait()
		if err := p.done(resp, err); err != nil {
			return err
		}
	}
	return nil
}

// checked is a done that wants success only.
func (c *guestCopy) checked(op, name string) func(*proto.FileResponse, error) error {
	return func(_ *proto.FileResponse, err error) error { return c.fs.pathError(op, name, err) }
}

// guestSet are the attributes of a copy in the guest.
func (o *CopyOptions) guestSet(info fs.FileInfo) *proto.FileSet {
	set := &proto.FileSet{HasMode: info.Mode().Type() != fs.ModeSymlink, Mode: unixMode(o.mode(info.Mode()))}
	if err := setTime(&set.HasMtime, &set.MtimeNs, info.ModTime()); err != nil {
		set.HasMtime = false // of a year that the protocol has no number for
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && o.KeepOwner {
		set.HasOwner, set.Uid, set.Gid = true, int64(st.Uid), int64(st.Gid)
	}
	return set
}

// openPlain opens a file that was regular when it was looked at.
func openPlain(open func(string, int, fs.FileMode) (*os.File, error), name string) (*os.File, fs.FileInfo, error) {
	f, err := open(name, openQuickly, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: f.Name(), Err: errors.New("not a regular file any more")}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}
