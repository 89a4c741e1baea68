package agent

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

func writeFile(t testing.TB, path, content string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

func TestLookupAccount(t *testing.T) {
	dir := t.TempDir()
	passwd := writeFile(t, dir+"/passwd", "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\n"+
		"ann:x:1000:1000:Ann:/home/ann:/bin/sh\n1000:x:2000:2000::/home/number:\nbad:x:-1:0::/:\nmax:x:4294967295:0::/:\n")
	group := writeFile(t, dir+"/group", "root:x:0:\nann:x:1000:ann\naudio:x:29:bob,ann\nvideo:x:44:ann\nannex:x:45:anne\n")
	for _, c := range []struct {
		user string
		want account
	}{
		{"", account{name: "root", home: "/root", groups: nil}},
		{"root", account{name: "root", home: "/root"}},
		{"ann", account{name: "ann", home: "/home/ann", uid: 1000, gid: 1000, groups: []uint32{29, 44}}},
		{"1000", account{name: "1000", home: "/home/number", uid: 2000, gid: 2000}}, // a name before a number
		{"2000", account{name: "1000", home: "/home/number", uid: 2000, gid: 2000}},
		{"77", account{home: "/", uid: 77}},
		{"ann:audio", account{name: "ann", home: "/home/ann", uid: 1000, gid: 29}},
		{"ann:77", account{name: "ann", home: "/home/ann", uid: 1000, gid: 77}},
		{"5:6", account{home: "/", uid: 5, gid: 6}},
		{":video", account{name: "root", home: "/root", gid: 44}},
		{"ann:", account{name: "ann", home: "/home/ann", uid: 1000, gid: 1000, groups: []uint32{29, 44}}},
	} {
		got, err := lookupAccount(c.user, passwd, group)
		require.NoError(t, err, c.user)
		require.Equal(t, c.want, got, c.user)
	}
	for _, user := range []string{"bob", "bad", "max", "ann:none", "-1", "4294967295", "5:4294967296", "a\x00", strings.Repeat("u", 300)} {
		_, err := lookupAccount(user, passwd, group)
		require.Error(t, err, user)
		require.Equal(t, proto.StartFailure_UNKNOWN_USER, asFailure(err).kind)
	}
	// An image without the databases has root and numbers.
	got, err := lookupAccount("", dir+"/none", dir+"/none")
	require.NoError(t, err)
	require.Equal(t, account{name: "root", home: "/root"}, got)
}

// A FIFO or a device in the place of a database is refused, not waited for.
func TestLookupAccount_SpecialFiles(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, unix.Mkfifo(dir+"/passwd", 0o644))
	require.NoError(t, os.Symlink("/dev/zero", dir+"/group"))
	_, err := lookupAccount("root", dir+"/passwd", dir+"/none")
	require.Error(t, err)
	_, err = lookupAccount("root", dir+"/none", dir+"/group")
	require.Error(t, err)
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir+"/a/tool", "")
	writeFile(t, dir+"/b/tool", "")
	require.NoError(t, os.Chmod(dir+"/b/tool", 0o755))
	require.NoError(t, os.Mkdir(dir+"/a/dir", 0o755))
	look := func(name, path string) (string, error) { return lookPath(name, path, dir, accessMode) }
	got, err := look("tool", dir+"/a:"+dir+"/b")
	require.NoError(t, err)
	require.Equal(t, dir+"/b/tool", got)
	got, err = look("tool", "/nowhere:b")
	require.NoError(t, err)
	require.Equal(t, dir+"/b/tool", got)
	got, err = look("./x", "")
	require.NoError(t, err)
	require.Equal(t, "./x", got)
	_, err = look("tool", dir+"/a")
	require.Equal(t, proto.StartFailure_PERMISSION, asFailure(err).kind)
	_, err = look("dir", dir+"/a")
	require.Equal(t, proto.StartFailure_PERMISSION, asFailure(err).kind)
	_, err = look("none", dir+"/a")
	require.Equal(t, proto.StartFailure_NOT_FOUND, asFailure(err).kind)
	require.Equal(t, syscall.ENOENT, asFailure(err).errno)
}

func TestMergeEnv(t *testing.T) {
	require.Equal(t, []string{"A=3", "B=2", "C="}, mergeEnv([]string{"A=1", "B=2"}, []string{"C=x", "A=3"}, []string{"C="}))
}

func TestFindDisk(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir+"/vda/serial", "upper\n")
	writeFile(t, dir+"/vdb/serial", "root")
	require.NoError(t, os.Mkdir(dir+"/loop0", 0o755))
	for serial, want := range map[string]string{"root": "vdb", "upper": "vda", "data": "", "roo": ""} {
		got, err := findDisk(dir, serial)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestExt4Blocks(t *testing.T) {
	sb := make([]byte, 2048)
	_, _, err := ext4Blocks(bytes.NewReader(sb))
	require.Error(t, err)
	_, _, err = ext4Blocks(bytes.NewReader(sb[:1500]))
	require.Error(t, err)
	copy(sb[1024+0x38:], []byte{0x53, 0xef})
	copy(sb[1024+4:], []byte{0, 0, 1, 0})
	sb[1024+0x18] = 2
	sb[1024+0x150] = 1
	blocks, size, err := ext4Blocks(bytes.NewReader(sb))
	require.NoError(t, err)
	require.EqualValues(t, 0x10000, blocks)
	require.EqualValues(t, 4096, size)
	sb[1024+0x60] = 0x80
	blocks, _, err = ext4Blocks(bytes.NewReader(sb))
	require.NoError(t, err)
	require.EqualValues(t, 0x1_0001_0000, blocks)
}

func TestUnmountOrder(t *testing.T) {
	require.Equal(t, []string{"/data/in ner", "/data"}, unmountOrder(
		"overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n/dev/vdc /data ext4 rw 0 0\n"+
			"/dev/vdd /data/in\\040ner ext4 rw 0 0\nshm /dev/shm tmpfs rw 0 0\nbroken\n"))
}

func TestFillIn(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Symlink("nowhere/at/all", dir+"/dangling"))
	writeFile(t, dir+"/target", "kept")
	require.NoError(t, os.Symlink("target", dir+"/link"))
	writeFile(t, dir+"/empty", "")
	writeFile(t, dir+"/full", "kept")
	for name, want := range map[string]string{"dangling": "new", "link": "kept", "empty": "new", "full": "kept", "missing": "new"} {
		require.NoError(t, fillIn(dir+"/"+name, "new"))
		got, err := os.ReadFile(dir + "/" + name)
		require.NoError(t, err)
		require.Equal(t, want, string(got), name)
	}
	require.NoError(t, unix.Mkfifo(dir+"/fifo", 0o644))
	require.NoError(t, fillIn(dir+"/fifo", "new"))
}

func TestKmsgHandler(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(newKmsgHandler(&b))
	log.Debug("no")
	log.With("a", 1).Error("line\nbreak", "b", strings.Repeat("x", 2000))
	require.True(t, strings.HasPrefix(b.String(), "<3>sandpit-agent: line break a=1 b=xxx"), b.String())
	require.LessOrEqual(t, b.Len(), maxRecord+1)
	require.Equal(t, 1, strings.Count(b.String(), "\n"))
}

func TestParseRlimits(t *testing.T) {
	got, err := parseRlimits([]*proto.Rlimit{{Name: "core", Soft: 1, Hard: 2}, {Name: "nofile", Soft: 3, Hard: 1<<64 - 1}, {Name: "core", Soft: 5, Hard: 5}})
	require.NoError(t, err)
	require.Equal(t, []rlimit{
		{"core", unix.RLIMIT_CORE, syscall.Rlimit{Cur: 5, Max: 5}},
		{"nofile", unix.RLIMIT_NOFILE, syscall.Rlimit{Cur: 3, Max: 1<<64 - 1}},
	}, got)
	_, err = parseRlimits(make([]*proto.Rlimit, 65))
	require.Error(t, err)
}

// A caller that ignores the window loses its command, not the agent's memory.
func TestExecution_DispatchWithoutCredit(t *testing.T) {
	x := &execution{input: make(chan []byte, proto.Window), stdout: newOutput(nil, nil, nil)}
	in := &proto.ExecInput{Input: &proto.ExecInput_Stdin{Stdin: []byte("x")}}
	for range proto.Window {
		require.NoError(t, x.dispatch(in))
	}
	require.Error(t, x.dispatch(in))
	require.Error(t, x.dispatch(&proto.ExecInput{Input: &proto.ExecInput_Stdin{Stdin: make([]byte, proto.MaxChunk+1)}}))
	require.Error(t, x.dispatch(&proto.ExecInput{Input: &proto.ExecInput_StdoutCredit{StdoutCredit: 1}}))
	require.Error(t, x.dispatch(&proto.ExecInput{Input: &proto.ExecInput_StdoutCredit{StdoutCredit: 1<<32 - 1}}))
	require.Error(t, x.dispatch(&proto.ExecInput{Input: &proto.ExecInput_StderrCredit{StderrCredit: 1}}))
	require.Error(t, x.dispatch(&proto.ExecInput{Input: &proto.ExecInput_Start{}}))
	require.Error(t, x.dispatch(&proto.ExecInput{}))
	eof := &proto.ExecInput{Input: &proto.ExecInput_StdinEof{StdinEof: true}}
	require.NoError(t, x.dispatch(eof))
	require.NoError(t, x.dispatch(eof))
	require.Error(t, x.dispatch(in))
}
