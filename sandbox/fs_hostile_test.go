package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/require"
	pb "google.golang.org/protobuf/proto"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// liar is a Files service that answers what it likes; nil is silence.
type liar func(*proto.FileRequest) *proto.FileResponse

func (l liar) Op(ctx context.Context, r *proto.FileRequest) (*proto.FileResponse, error) {
	resp := l(r)
	if resp == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return resp, nil
}

func (l liar) Session(ctx context.Context, s proto.Files_SessionServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		resp := l(r)
		if resp == nil {
			continue
		}
		if err := s.Send(resp); err != nil {
			return err
		}
	}
}

// hostile is an FS whose guest is a liar.
func hostile(t testing.TB, l liar) *FS {
	t.Helper()
	server, err := ttrpc.NewServer()
	require.NoError(t, err)
	proto.RegisterFilesService(server, l)
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(ctx, listener)
	}()
	dial := func(context.Context) (net.Conn, error) { return net.Dial("unix", socket) }
	conn, err := dial(ctx)
	require.NoError(t, err)
	client := newSharedClient(conn, func() {})
	t.Cleanup(func() {
		client.Close()
		cancel()
		server.Close()
		<-ended
	})
	return newFS("test", func(context.Context) (*ttrpc.Client, error) { return client, nil }, dial, func(err error) error { return err })
}

const (
	regular   = syscall.S_IFREG | 0o644
	directory = syscall.S_IFDIR | 0o755
	symlink   = syscall.S_IFLNK | 0o777
)

func listing(eof bool, mode uint32, names ...string) *proto.FileResponse {
	r := &proto.FileResponse{Eof: eof}
	for _, n := range names {
		r.Entries = append(r.Entries, &proto.FileEntry{Name: []byte(n), Attr: &proto.FileAttr{Mode: mode}})
	}
	return r
}

// tree answers for a directory whose listing is given.
func tree(list func() *proto.FileResponse, rest liar) liar {
	return func(r *proto.FileRequest) *proto.FileResponse {
		switch r.GetKind() {
		case proto.FileRequest_STAT, proto.FileRequest_OPEN:
			return &proto.FileResponse{Attr: &proto.FileAttr{Mode: directory}}
		case proto.FileRequest_LIST:
			return list()
		}
		if rest != nil {
			return rest(r)
		}
		return &proto.FileResponse{Eof: true, Target: []byte("../../outside"), Attr: &proto.FileAttr{Mode: regular}, Data: []byte("evil")}
	}
}

// Whatever names a guest lists, nothing outside the destination is touched.
func TestHostileNames_Row16(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../escaped", "a/b", "/tmp/escaped", "x\x00y", string(make([]byte, 5000))} {
		top := t.TempDir()
		f := hostile(t, tree(func() *proto.FileResponse { return listing(true, regular, "ok", name) }, nil))
		err := f.CopyToHost(t.Context(), "/d", top+"/dst", CopyOptions{})
		require.ErrorContains(t, err, "name that cannot be", "%.20q", name)
		requireOnly(t, top, "dst")
		_, err = f.ReadDir(t.Context(), "/d")
		require.ErrorContains(t, err, "name that cannot be")
		_, err = fs.ReadDir(f.DirFS(t.Context(), "/d"), ".")
		require.Error(t, err)
	}
}

func requireOnly(t testing.TB, dir string, names ...string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	require.Equal(t, names, got)
}

// A guest that lists a link and then something below the link's name, or the
// same name as a link and as a file, writes nothing through it.
func TestHostileLinks_Row30(t *testing.T) {
	top := t.TempDir()
	outside := filepath.Join(top, "outside")
	require.NoError(t, os.Mkdir(outside, 0o755))
	first := true
	f := hostile(t, tree(func() *proto.FileResponse {
		if !first {
			return listing(true, regular, "file")
		}
		first = false
		r := listing(true, symlink, "x")
		r.Entries = append(r.Entries, listing(true, directory, "x").GetEntries()...)
		return r
	}, func(r *proto.FileRequest) *proto.FileResponse {
		return &proto.FileResponse{Eof: true, Target: []byte(outside), Attr: &proto.FileAttr{Mode: regular}, Data: []byte("evil")}
	}))
	err := f.CopyToHost(t.Context(), "/d", top+"/dst", CopyOptions{})
	require.ErrorIs(t, err, syscall.ENOTDIR)
	requireOnly(t, outside)

	// The destination has such a link from the start.
	require.NoError(t, os.Symlink(outside, top+"/dst/y"))
	first = true
	f = hostile(t, tree(func() *proto.FileResponse { return listing(true, regular, "y") }, nil))
	require.NoError(t, f.CopyToHost(t.Context(), "/d", top+"/dst", CopyOptions{}))
	requireOnly(t, outside)
	info, err := os.Lstat(top + "/dst/y")
	require.NoError(t, err)
	require.True(t, info.Mode().IsRegular())
}

func TestHostileEndless(t *testing.T) {
	top := t.TempDir()
	n := 0
	entries := hostile(t, tree(func() *proto.FileResponse {
		n++
		return listing(false, regular, fmt.Sprint("f", n))
	}, nil))
	require.ErrorIs(t, entries.CopyToHost(t.Context(), "/d", top+"/a", CopyOptions{MaxEntries: 1000}), errTooManyFiles)

	nothing := hostile(t, tree(func() *proto.FileResponse { return listing(false, regular) }, nil))
	require.ErrorIs(t, nothing.CopyToHost(t.Context(), "/d", top+"/b", CopyOptions{MaxEntries: 1000}), errTooManyFiles)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := nothing.ReadDir(ctx, "/d")
	require.ErrorIs(t, err, context.DeadlineExceeded)

	deep := hostile(t, tree(func() *proto.FileResponse { return listing(true, directory, "d") }, nil))
	require.ErrorIs(t, deep.CopyToHost(t.Context(), "/d", top+"/c", CopyOptions{}), syscall.ENAMETOOLONG)

	data := make([]byte, proto.MaxChunk)
	offset := int64(0)
	stream := func(r *proto.FileRequest) *proto.FileResponse {
		switch r.GetKind() {
		case proto.FileRequest_STAT, proto.FileRequest_OPEN:
			return &proto.FileResponse{Attr: &proto.FileAttr{Mode: regular, Size: 1 << 40}}
		case proto.FileRequest_NEXT:
			offset += proto.MaxChunk
			return &proto.FileResponse{Data: data, Offset: offset - proto.MaxChunk}
		}
		return &proto.FileResponse{}
	}
	endless := hostile(t, stream)
	require.ErrorIs(t, endless.CopyToHost(t.Context(), "/f", top+"/d", CopyOptions{MaxBytes: 10 << 20}), errTooManyBytes)
	require.NoFileExists(t, top+"/d")
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	offset = 0
	file, err := endless.Open(ctx, "/f")
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, file)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	file.Close()

	// One that claims much, of nothing.
	hole := hostile(t, func(r *proto.FileRequest) *proto.FileResponse {
		return &proto.FileResponse{Attr: &proto.FileAttr{Mode: regular, Size: 1 << 62}, Eof: r.GetKind() == proto.FileRequest_NEXT, Offset: 1 << 62}
	})
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	file, err = hole.Open(ctx, "/f")
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, file)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	file.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = hole.ReadFile(t.Context(), "/f")
	require.ErrorContains(t, err, "use Open")
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2<<30), "bounded by MaxReadFile, not by the claim")
}

// Silence ends with the context, and holds up nobody else.
func TestHostileSilence(t *testing.T) {
	f := hostile(t, func(r *proto.FileRequest) *proto.FileResponse {
		if string(r.GetPath()) == "/answers" {
			return &proto.FileResponse{Attr: &proto.FileAttr{Mode: regular}}
		}
		return nil
	})
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/f", make([]byte, 3<<20), 0o600))
	for name, do := range map[string]func(context.Context) error{
		"stat":      func(ctx context.Context) error { _, err := f.Stat(ctx, "/x"); return err },
		"open":      func(ctx context.Context) error { _, err := f.Open(ctx, "/x"); return err },
		"read":      func(ctx context.Context) error { _, err := f.ReadFile(ctx, "/x"); return err },
		"write":     func(ctx context.Context) error { return f.WriteFile(ctx, "/x", make([]byte, 1<<20), 0o600) },
		"removeall": func(ctx context.Context) error { return f.RemoveAll(ctx, "/x") },
		"copy":      func(ctx context.Context) error { return f.Copy(ctx, "/x", "/y", CopyOptions{}) },
		"from host": func(ctx context.Context) error { return f.CopyFromHost(ctx, dir+"/f", "/y", CopyOptions{}) },
		"to host":   func(ctx context.Context) error { return f.CopyToHost(ctx, "/x", dir+"/y", CopyOptions{}) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		begin := time.Now()
		require.ErrorIs(t, do(ctx), context.DeadlineExceeded, name)
		require.Less(t, time.Since(begin), 10*time.Second)
		cancel()
	}
	_, err := f.Stat(t.Context(), "/answers")
	require.NoError(t, err)
	// Even when as many calls as there may be are never answered.
	for range maxSharedCalls {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := f.Stat(ctx, "/x")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = f.Stat(ctx, "/answers")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	requireOnly(t, dir, "f")
}

func TestHostileAnswers(t *testing.T) {
	for name, resp := range map[string]*proto.FileResponse{
		"too much data":      {Data: make([]byte, proto.MaxChunk+1), Attr: &proto.FileAttr{Mode: regular}},
		"more than asked":    {Data: make([]byte, 11), Attr: &proto.FileAttr{Mode: regular}},
		"a negative offset":  {Data: make([]byte, 1), Offset: -1},
		"the end of numbers": {Data: make([]byte, 1), Offset: 1<<63 - 1},
	} {
		f := hostile(t, func(*proto.FileRequest) *proto.FileResponse { return resp })
		file, err := f.Open(t.Context(), "/f")
		if err != nil {
			require.Equal(t, "too much data", name, "%v", err)
			continue
		}
		if name == "more than asked" {
			_, err = file.Read(make([]byte, 10))
		} else {
			_, err = file.WriteTo(io.Discard)
		}
		require.ErrorContains(t, err, "the guest", name)
		file.Close()
	}
	f := hostile(t, func(*proto.FileRequest) *proto.FileResponse {
		return &proto.FileResponse{Failure: &proto.FileFailure{Errno: -5, Op: "\x1b[2J", Path: make([]byte, 10_000)}}
	})
	_, err := f.Stat(t.Context(), "/f")
	require.Equal(t, &fs.PathError{Op: "stat", Path: "/f", Err: syscall.EIO}, err)
}

// FuzzFiles_Guest: whatever a guest answers, calls return, and nothing outside
// of the destination is touched.
func FuzzFiles_Guest(f *testing.F) {
	pack := func(list ...*proto.FileResponse) []byte {
		var b []byte
		for _, r := range list {
			one, err := pb.Marshal(r)
			require.NoError(f, err)
			b = append(b, byte(len(one)>>8), byte(len(one)))
			b = append(b, one...)
		}
		return b
	}
	dir := &proto.FileResponse{Attr: &proto.FileAttr{Mode: directory}}
	f.Add(pack(dir, dir, dir, listing(true, regular, "a", "b")))
	f.Add(pack(dir, dir, dir, listing(true, directory, "..")))
	f.Add(pack(dir, dir, dir, listing(false, symlink, "x"), &proto.FileResponse{Target: []byte("/etc")}, listing(true, directory, "x"), dir, listing(true, regular, "passwd")))
	f.Add(pack(&proto.FileResponse{Attr: &proto.FileAttr{Mode: regular, Size: 1 << 40}}, &proto.FileResponse{Data: []byte("x"), Offset: 5}))
	f.Fuzz(func(t *testing.T, in []byte) {
		rest := in
		guest := hostile(t, func(*proto.FileRequest) *proto.FileResponse {
			r := &proto.FileResponse{Eof: true}
			if len(rest) >= 2 {
				n := min(int(rest[0])<<8|int(rest[1]), len(rest)-2)
				if pb.Unmarshal(rest[2:2+n], r) != nil {
					r = &proto.FileResponse{Eof: true}
				}
				rest = rest[2+n:]
			}
			return r
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		top := t.TempDir()
		require.NoError(t, os.Mkdir(top+"/in", 0o755))
		err := guest.CopyToHost(ctx, "/d", top+"/in/dst", CopyOptions{MaxEntries: 100, MaxBytes: 1 << 20})
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		requireOnly(t, top, "in")
		list, err := os.ReadDir(top + "/in")
		require.NoError(t, err)
		for _, e := range list {
			require.Equal(t, "dst", e.Name())
		}
		rest = in
		_, _ = guest.ReadDir(ctx, "/d")
		rest = in
		_, err = guest.Stat(ctx, "/d")
		_ = fmt.Sprint(err)
		rest = in
		if file, err := guest.Open(ctx, "/f"); err == nil {
			_, _ = file.Read(make([]byte, 100))
			file.Close()
		}
	})
}

// A byte here and there in a file takes a block of the host's disk each, and
// counts as one.
func TestHostileHoles_MaxBytes(t *testing.T) {
	dir := t.TempDir()
	holes := func(step int64, opt CopyOptions) (asked int64, err error) {
		var offset atomic.Int64
		f := hostile(t, func(r *proto.FileRequest) *proto.FileResponse {
			switch r.GetKind() {
			case proto.FileRequest_STAT, proto.FileRequest_OPEN:
				return &proto.FileResponse{Attr: &proto.FileAttr{Mode: regular, Size: 1 << 40}}
			case proto.FileRequest_NEXT:
				at := offset.Add(step)
				return &proto.FileResponse{Data: []byte("x"), Offset: at, Eof: at >= 64<<20}
			}
			return &proto.FileResponse{}
		})
		err = f.CopyToHost(t.Context(), "/f", dir+"/f", opt)
		return offset.Load() / step, err
	}
	for _, step := range []int64{64 << 10, diskBlock} {
		asked, err := holes(step, CopyOptions{MaxBytes: 16 * diskBlock})
		require.ErrorIs(t, err, errTooManyBytes)
		require.LessOrEqual(t, asked, int64(16+1+proto.Window), "some are asked for ahead")
		requireOnly(t, dir)
	}
	_, err := holes(1<<20, CopyOptions{MaxBytes: 63 * diskBlock})
	require.NoError(t, err)
	_, err = holes(1<<20, CopyOptions{MaxBytes: 63*diskBlock - 1})
	require.ErrorIs(t, err, errTooManyBytes)
	// What is contiguous counts once, however it comes.
	c := &toHost{guestCopy: &guestCopy{opt: CopyOptions{MaxBytes: 2 * diskBlock}}}
	var counted int64
	for i := range int64(2 * diskBlock) {
		require.NoError(t, c.count([]byte("x"), i, &counted))
	}
}

// What the guest says it wrote is neither more than it was given nor, without a
// word, less.
func TestHostileWritten(t *testing.T) {
	for written, want := range map[uint32]string{60000: "more than it was given", 5: "more than it was given", 3: "short write", 0: "short write", 1<<32 - 1: "more than it was given"} {
		f := hostile(t, func(r *proto.FileRequest) *proto.FileResponse {
			resp := &proto.FileResponse{Attr: &proto.FileAttr{Mode: regular}}
			if k := r.GetKind(); k == proto.FileRequest_WRITE || k == proto.FileRequest_WRITE_FILE {
				resp.Written = written
			}
			return resp
		})
		file, err := f.Create(t.Context(), "/x")
		require.NoError(t, err)
		for _, write := range []func([]byte) (int, error){
			file.Write,
			func(p []byte) (int, error) { return file.WriteAt(p, 7) },
		} {
			n, err := write([]byte("four"))
			require.ErrorContains(t, err, want)
			require.LessOrEqual(t, n, 4)
			if written < 4 {
				require.EqualValues(t, written, n)
				require.ErrorIs(t, err, io.ErrShortWrite)
			}
		}
		n, err := file.ReadFrom(bytes.NewReader(make([]byte, 70_000)))
		require.Error(t, err)
		require.LessOrEqual(t, n, int64(70_000))
		require.NoError(t, file.Close())
		require.ErrorIs(t, f.WriteFile(t.Context(), "/x", []byte("four"), 0o644), io.ErrShortWrite)
	}
}

// Close waits for a silent guest for a while only, and then a Read that hangs
// has its end, too.
func TestHostileClose(t *testing.T) {
	for name, all := range map[string]bool{"after it was opened": false, "to nothing": true} {
		t.Run(name, func(t *testing.T) {
			reading, released := make(chan struct{}, 2), make(chan struct{})
			defer close(released)
			f := hostile(t, func(r *proto.FileRequest) *proto.FileResponse {
				if r.GetKind() == proto.FileRequest_OPEN {
					return &proto.FileResponse{Attr: &proto.FileAttr{Mode: regular}}
				}
				reading <- struct{}{}
				if all {
					<-released // takes nothing either
				}
				return nil
			})
			f.closeLimit = 50 * time.Millisecond
			file, err := f.Open(context.Background(), "/x")
			require.NoError(t, err)
			failed := make(chan error, 1)
			go func() { _, err := file.Read(make([]byte, 10)); failed <- err }()
			<-reading
			closed := make(chan error, 1)
			go func() { closed <- file.Close() }()
			select {
			case err = <-closed:
			case <-time.After(10 * time.Second):
				t.Fatal("Close waits for the guest")
			}
			var own *Error
			require.ErrorAs(t, err, &own)
			require.ErrorContains(t, err, "did not answer within 50ms")
			require.ErrorIs(t, <-failed, fs.ErrClosed)
			require.ErrorIs(t, file.Close(), fs.ErrClosed)
		})
	}
}
