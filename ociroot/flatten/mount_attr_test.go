package flatten_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// Attributes that are too large or too many for tar to unpack anywhere.
func TestMountLargeAttributes(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Linux with EROFS, for which -short starts no machine")
	}
	if !inMachine(t) {
		return
	}
	big := noise(65535)
	many := map[string]string{}
	for i := range 300 {
		many[fmt.Sprintf("SCHILY.xattr.user.m%03d", i)] = string(big[:i])
	}
	records := func(r map[string]string) func(*ent) { return func(e *ent) { e.PAXRecords = r } }
	target := string(bytes.Repeat([]byte("t"), 4095))
	f, _, err := build(t, flatten.Options{}, archive(t,
		with(file("big", "x"), records(map[string]string{"SCHILY.xattr.user.big": string(big), "SCHILY.xattr.user.c": "c"})),
		with(symlink("link", target), records(map[string]string{"SCHILY.xattr.trusted.big": string(big)})),
		with(dir("many", 0o755), records(many)), with(file("many/x", "x"), records(many))))
	require.NoError(t, err)
	fsck(t, f.Name())
	root := mount(t, f.Name())
	buf := make([]byte, 1<<16)
	get := func(path, name string) []byte {
		n, err := unix.Lgetxattr(filepath.Join(root, path), name, buf)
		require.NoError(t, err, "%s of %s", name, path)
		return buf[:n]
	}
	require.True(t, bytes.Equal(big, get("big", "user.big")))
	require.Equal(t, "c", string(get("big", "user.c")))
	require.True(t, bytes.Equal(big, get("link", "trusted.big")))
	for _, path := range []string{"many", "many/x"} {
		for i := range 300 {
			require.True(t, bytes.Equal(big[:i], get(path, fmt.Sprintf("user.m%03d", i))))
		}
		n, err := unix.Llistxattr(filepath.Join(root, path), buf)
		require.NoError(t, err)
		require.Equal(t, 300*len("user.m000\x00"), n)
	}
	n, err := unix.Readlink(filepath.Join(root, "link"), buf)
	require.NoError(t, err)
	require.Equal(t, target, string(buf[:n]))
}
