package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	pb "google.golang.org/protobuf/proto"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// filesAgent is an agent in this process that has been set up.
func filesAgent(t testing.TB) (*Agent, func() *proto.FileSession) {
	t.Helper()
	a, err := New(Config{})
	require.NoError(t, err)
	a.setup = setupDone
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return a, func() *proto.FileSession {
		ours, theirs := net.Pipe()
		go func() { _ = a.ServeConn(theirs) }()
		s, err := proto.StartFileSession(t.Context(), ours)
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		return s
	}
}

func errnoOf(t testing.TB, err error) syscall.Errno {
	t.Helper()
	if err == nil {
		return 0
	}
	var fe *proto.FileError
	require.ErrorAs(t, err, &fe)
	require.Equal(t, proto.FileFailure_NONE, fe.Failure.GetRefusal())
	return syscall.Errno(fe.Failure.GetErrno())
}

func TestFiles_Handles(t *testing.T) {
	a, session := filesAgent(t)
	s, dir := session(), t.TempDir()
	open := func(handle uint32, name string, flags proto.OpenFlag) error {
		_, err := s.Do(&proto.FileRequest{Kind: proto.FileRequest_OPEN, Path: []byte(dir + name), Handle: handle, Flags: uint32(flags), Mode: 0o600})
		return err
	}
	rw := proto.OpenFlag_OPEN_READ | proto.OpenFlag_OPEN_WRITE | proto.OpenFlag_OPEN_CREATE
	require.NoError(t, open(1, "/f", rw))
	require.Equal(t, unix.EBADF, errnoOf(t, open(1, "/g", rw)), "taken")
	require.Equal(t, unix.EBADF, errnoOf(t, open(0, "/g", rw)))
	require.Equal(t, unix.EINVAL, errnoOf(t, open(2, "/g", proto.OpenFlag_OPEN_CREATE)), "neither to read nor to write")
	resp, err := s.Do(&proto.FileRequest{Kind: proto.FileRequest_WRITE, Handle: 1, Offset: 1 << 20, Data: []byte("data")})
	require.NoError(t, err)
	require.EqualValues(t, 4, resp.GetWritten())
	// NEXT skips the hole.
	resp, err = s.Do(&proto.FileRequest{Kind: proto.FileRequest_NEXT, Handle: 1, Length: 100})
	require.NoError(t, err)
	require.EqualValues(t, 1<<20&^4095, resp.GetOffset())
	resp, err = s.Do(&proto.FileRequest{Kind: proto.FileRequest_NEXT, Handle: 1, Length: 100})
	require.NoError(t, err)
	require.True(t, resp.GetEof())
	require.EqualValues(t, 1<<20+4, resp.GetOffset())
	for _, r := range []*proto.FileRequest{
		{Kind: proto.FileRequest_READ, Handle: 2, Length: 1},
		{Kind: proto.FileRequest_CLOSE, Handle: 64},
	} {
		_, err := s.Do(r)
		require.Equal(t, unix.EBADF, errnoOf(t, err))
	}
	for _, r := range []*proto.FileRequest{
		{Kind: proto.FileRequest_READ, Handle: 1, Length: 1, Offset: -1},
		{Kind: proto.FileRequest_READ, Handle: 1},
		{Kind: proto.FileRequest_SEEK, Handle: 1, Offset: -1},
		{Kind: proto.FileRequest_RENAME, Handle: 1},
		{Kind: proto.FileRequest_NONE, Path: []byte("/")},
		{Kind: 99, Path: []byte("/")},
		{Kind: proto.FileRequest_STAT, Path: []byte("relative")},
		{Kind: proto.FileRequest_SET, Handle: 1, Set: &proto.FileSet{HasOwner: true, Uid: 1<<32 - 1, Gid: -1}},
		{Kind: proto.FileRequest_CLOSE, Handle: 1, Commit: true},
	} {
		_, err := s.Do(r)
		require.Equal(t, unix.EINVAL, errnoOf(t, err), r.String())
	}
	require.NoError(t, open(1, "/f", rw), "a CLOSE that fails closes")
	fds := openFDs(t)
	require.NoError(t, s.Close())
	require.Eventually(t, func() bool {
		a.files.mu.Lock()
		defer a.files.mu.Unlock()
		return a.files.handles == 0 && len(a.files.sessions) == 0
	}, 10*time.Second, time.Millisecond)
	require.Less(t, openFDs(t), fds)
}

func openFDs(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

// A failed write keeps the file from being committed, though the caller may
// have asked for both at once; and what was not committed goes with its session.
func TestFiles_Temporary(t *testing.T) {
	_, session := filesAgent(t)
	s, dir := session(), t.TempDir()
	name := []byte(dir + "/f")
	calls := []*proto.FileCall{
		s.Start(&proto.FileRequest{Kind: proto.FileRequest_OPEN, Path: name, Handle: 1, Temp: true}),
		s.Start(&proto.FileRequest{Kind: proto.FileRequest_WRITE, Handle: 1, Data: []byte("x")}),
		s.Start(&proto.FileRequest{Kind: proto.FileRequest_WRITE, Handle: 1, Data: []byte("x"), Offset: -1}),
		s.Start(&proto.FileRequest{Kind: proto.FileRequest_CLOSE, Handle: 1, Commit: true}),
	}
	var errs []syscall.Errno
	for _, c := range calls {
		_, err := c.Wait()
		errs = append(errs, errnoOf(t, err))
	}
	require.Equal(t, []syscall.Errno{0, 0, unix.EINVAL, unix.EINVAL}, errs)
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, list)

	_, err = s.Do(&proto.FileRequest{Kind: proto.FileRequest_OPEN, Path: name, Handle: 1, Temp: true})
	require.NoError(t, err)
	list, err = os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 1)
	s.Close()
	require.Eventually(t, func() bool {
		list, err := os.ReadDir(dir)
		return err == nil && len(list) == 0
	}, 10*time.Second, time.Millisecond)
}

// A FIFO, a socket, a device do not hold the agent up, nor are they opened.
func TestFiles_NothingWaits(t *testing.T) {
	_, session := filesAgent(t)
	s, dir := session(), t.TempDir()
	require.NoError(t, unix.Mkfifo(dir+"/fifo", 0o600))
	l, err := net.Listen("unix", dir+"/socket")
	require.NoError(t, err)
	defer l.Close()
	for _, name := range []string{dir + "/fifo", dir + "/socket", "/dev/tty", "/dev/kmsg", "/dev/ptmx"} {
		for _, kind := range []proto.FileRequest_Kind{proto.FileRequest_READ_FILE, proto.FileRequest_WRITE_FILE, proto.FileRequest_OPEN} {
			_, err := s.Do(&proto.FileRequest{Kind: kind, Path: []byte(name), Handle: map[bool]uint32{true: 1}[kind == proto.FileRequest_OPEN], Flags: uint32(proto.OpenFlag_OPEN_WRITE)})
			require.Equal(t, unix.EOPNOTSUPP, errnoOf(t, err), "%s %v", name, kind)
		}
	}
	resp, err := s.Do(&proto.FileRequest{Kind: proto.FileRequest_READ_FILE, Path: []byte("/dev/zero")})
	require.NoError(t, err)
	require.Len(t, resp.GetData(), proto.MaxChunk)
	require.False(t, resp.GetEof())
}

func TestFiles_Limits(t *testing.T) {
	a, session := filesAgent(t)
	stat := &proto.FileRequest{Kind: proto.FileRequest_STAT, Path: []byte("/")}
	for range maxFileSessions {
		_, err := session().Do(stat)
		require.NoError(t, err)
	}
	_, err := session().Do(stat)
	var fe *proto.FileError
	require.ErrorAs(t, err, &fe)
	require.Equal(t, proto.FileFailure_TOO_MANY, fe.Failure.GetRefusal())
	a.files.stop(time.Second)
	require.ErrorIs(t, a.files.reserve(1), unix.ESHUTDOWN)
}

func TestFiles_HandlesLimit(t *testing.T) {
	a, _ := filesAgent(t)
	require.NoError(t, a.files.reserve(maxFileHandles))
	require.ErrorIs(t, a.files.reserve(1), unix.EMFILE)
	require.NoError(t, a.files.reserve(-1))
	require.NoError(t, a.files.reserve(1))
}

// What breaks the protocol ends the session.
func TestFiles_Violations(t *testing.T) {
	_, session := filesAgent(t)
	for _, r := range []*proto.FileRequest{
		{Kind: proto.FileRequest_STAT, Handle: proto.MaxFileHandles + 1},
		{Kind: proto.FileRequest_READ, Handle: 1, Length: proto.MaxChunk + 1},
		{Kind: proto.FileRequest_WRITE, Handle: 1, Data: make([]byte, proto.MaxChunk+1)},
	} {
		s := session()
		_, err := s.Do(r)
		require.ErrorIs(t, err, proto.ErrLost)
		<-s.Done()
	}
}

func TestFiles_OpsOnly(t *testing.T) {
	a, _ := filesAgent(t)
	for _, r := range []*proto.FileRequest{
		{Kind: proto.FileRequest_OPEN, Path: []byte("/")},
		{Kind: proto.FileRequest_COPY, Path: []byte("/"), Target: []byte("/x")},
		{Kind: proto.FileRequest_REMOVE, All: true, Path: []byte("/x")},
		{Kind: proto.FileRequest_STAT, Handle: 1},
	} {
		_, err := a.files.Op(t.Context(), r)
		require.ErrorContains(t, err, "session")
	}
	a.draining = true
	resp, err := a.files.Op(t.Context(), &proto.FileRequest{Kind: proto.FileRequest_STAT, Path: []byte("/")})
	require.NoError(t, err)
	require.Equal(t, proto.FileFailure_DRAINING, resp.GetFailure().GetRefusal())
	a.setup, a.draining = setupHeld, false
	resp, err = a.files.Op(t.Context(), &proto.FileRequest{Kind: proto.FileRequest_STAT, Path: []byte("/")})
	require.NoError(t, err)
	require.Equal(t, proto.FileFailure_NOT_READY, resp.GetFailure().GetRefusal())
}

// A removal and a copy stop when the caller goes away.
func TestFiles_Cancelled(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "tree", string(rune('a'+i))), 0o755))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, removeTree(ctx, dir+"/tree"), context.Canceled)
	c := treeCopy{ctx: ctx}
	require.ErrorIs(t, c.run(dir+"/tree", dir+"/copy"), context.Canceled)
	require.NoError(t, removeTree(t.Context(), dir+"/tree"))
	require.NoFileExists(t, dir+"/tree")
	for _, name := range []string{"/", "//", "/.", dir + "/.."} {
		require.ErrorIs(t, removeTree(t.Context(), name), unix.EINVAL, name)
	}
	require.DirExists(t, dir)
}

// A directory of names as long as can be, in pieces that fit a frame.
func TestFiles_List(t *testing.T) {
	_, session := filesAgent(t)
	s, dir := session(), t.TempDir()
	for i := range 1000 {
		name := make([]byte, 250)
		for j := range name {
			name[j] = byte('a' + (i+j)%26)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, string(name[:200+i%50])+string(rune('0'+i/26))), nil, 0o600))
	}
	resp, err := s.Do(&proto.FileRequest{Kind: proto.FileRequest_LIST, Path: []byte(dir)})
	require.NoError(t, err)
	require.False(t, resp.GetEof())
	_, err = s.Do(&proto.FileRequest{Kind: proto.FileRequest_OPEN, Path: []byte(dir), Handle: 1, Flags: uint32(proto.OpenFlag_OPEN_READ)})
	require.NoError(t, err)
	total := 0
	for {
		resp, err := s.Do(&proto.FileRequest{Kind: proto.FileRequest_LIST, Handle: 1})
		require.NoError(t, err)
		require.Less(t, pb.Size(resp), proto.MaxChunk)
		if total += len(resp.GetEntries()); resp.GetEof() {
			break
		}
	}
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Equal(t, len(list), total)
}

// FuzzFiles does any sequence of operations, their names below a directory, and
// checks that every request gets its answer and nothing stays open.
func FuzzFiles(f *testing.F) {
	pack := func(list ...*proto.FileRequest) []byte {
		var b []byte
		for _, r := range list {
			one, err := pb.Marshal(r)
			require.NoError(f, err)
			b = append(b, byte(len(one)))
			b = append(b, one...)
		}
		return b
	}
	f.Add(pack(
		&proto.FileRequest{Kind: proto.FileRequest_OPEN, Path: []byte("a"), Handle: 1, Flags: 11, Mode: 0o600},
		&proto.FileRequest{Kind: proto.FileRequest_WRITE, Handle: 1, Data: []byte("x"), Offset: 1 << 30},
		&proto.FileRequest{Kind: proto.FileRequest_SEEK, Handle: 1, Offset: 5},
		&proto.FileRequest{Kind: proto.FileRequest_NEXT, Handle: 1, Length: 9},
		&proto.FileRequest{Kind: proto.FileRequest_CLOSE, Handle: 1}))
	f.Add(pack(
		&proto.FileRequest{Kind: proto.FileRequest_WRITE_FILE, Path: []byte("a"), Temp: true, Data: []byte("y"), Set: &proto.FileSet{HasMode: true, Mode: 0o7777}},
		&proto.FileRequest{Kind: proto.FileRequest_COPY, Path: []byte("a"), Target: []byte("b")},
		&proto.FileRequest{Kind: proto.FileRequest_LINK, Path: []byte("a"), Target: []byte("c")},
		&proto.FileRequest{Kind: proto.FileRequest_SYMLINK, Path: []byte("d"), Target: []byte("d")},
		&proto.FileRequest{Kind: proto.FileRequest_LIST, Path: []byte("")},
		&proto.FileRequest{Kind: proto.FileRequest_REMOVE, Path: []byte(""), All: true}))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := New(Config{})
		require.NoError(t, err)
		dir := t.TempDir() + "/d"
		require.NoError(t, os.Mkdir(dir, 0o755))
		below := func(name []byte) []byte {
			// No way out: neither "..", nor a link that leads elsewhere.
			for i, c := range name {
				if c == '.' || c == '/' {
					name[i] = '_'
				}
			}
			return append([]byte(dir+"/"), name[:min(len(name), 20)]...)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		s := newFileSession(ctx, a.files)
		for len(in) > 0 {
			n := min(int(in[0]), len(in)-1)
			var r proto.FileRequest
			err := pb.Unmarshal(in[1:1+n], &r)
			in = in[1+n:]
			if err != nil || checkFileRequest(&r) != nil {
				continue
			}
			r.Path = below(r.GetPath())
			if r.GetKind() == proto.FileRequest_SYMLINK {
				r.Target = []byte("a")
			} else {
				r.Target = below(r.GetTarget())
			}
			r.Offset %= 1 << 32
			resp := s.do(&r)
			s.sent()
			require.LessOrEqual(t, len(resp.GetData()), proto.MaxChunk)
			require.LessOrEqual(t, pb.Size(resp), proto.MaxChunk+4<<10)
			if fail := resp.GetFailure(); fail != nil {
				require.NotZero(t, fail.GetErrno())
			}
		}
		require.NoError(t, ctx.Err())
		s.end()
		require.Zero(t, a.files.handles)
		var left []string
		_ = filepath.WalkDir(dir, func(p string, _ os.DirEntry, _ error) error {
			if m, _ := filepath.Match(".sandpit-*", filepath.Base(p)); m {
				left = append(left, p)
			}
			return nil
		})
		require.Empty(t, left)
		resp := s.do(&proto.FileRequest{Kind: proto.FileRequest_STAT, Path: []byte(dir)})
		require.True(t, errors.Is(syscall.Errno(resp.GetFailure().GetErrno()), unix.ESHUTDOWN))
	})
}
