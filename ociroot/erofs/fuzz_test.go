package erofs_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	oracle "github.com/erofs/go-erofs"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

// entry is a name of FuzzImage's model.
type entry struct {
	id      erofs.NodeID
	content string // of a file, or "-> " and a link's target
	xattrs  map[string]string
}

// linked returns those that still have a name: others must not be linked again.
func linked(all []*entry, tree map[erofs.NodeID]map[string]*entry) []*entry {
	has := map[*entry]bool{}
	for _, entries := range tree {
		for _, e := range entries {
			has[e] = true
		}
	}
	return slices.DeleteFunc(all, func(e *entry) bool { return !has[e] })
}

// FuzzImage runs a program of calls and keeps a model of what it made; another
// reader must find just that.
func FuzzImage(f *testing.F) {
	f.Add([]byte{0, 0, 1, 10, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7})
	f.Add([]byte{1, 200, 1, 1, 255, 3, 2, 16, 9, 3, 200, 4, 4, 0, 0, 5, 1, 1, 6, 0, 0})
	f.Add([]byte{0, 50, 0, 0, 51, 1, 0, 52, 2, 1, 250, 3, 4, 1, 1, 2, 64, 0, 6, 1, 1})
	f.Fuzz(func(t *testing.T, program []byte) {
		var out memory
		w := erofs.NewWriter(&out, erofs.Options{})
		root, err := w.AddDir(erofs.Attr{Mode: 0o755})
		require.NoError(t, err)
		dirs := []erofs.NodeID{root}
		paths := map[erofs.NodeID]string{root: "."}
		tree := map[erofs.NodeID]map[string]*entry{root: {}}
		var all []*entry
		for len(program) >= 3 && len(all) < 500 {
			op, a, b := program[0]%7, int(program[1]), int(program[2])
			program = program[3:]
			dir := dirs[a%len(dirs)]
			name := strings.Repeat(string([]byte{byte(len(all)%253) + 1}), 1+b) + fmt.Sprint(len(all))
			name = strings.ReplaceAll(name, "/", "x")
			if len(name) > 255 || strings.Trim(name, ".") == "" {
				continue
			}
			attr := erofs.Attr{Mode: uint16(a<<4|b) & 0o7777, UID: uint32(a) << 24, GID: uint32(b), Mtime: int64(a-128) << 25, MtimeNsec: uint32(b)}
			e := &entry{xattrs: map[string]string{}}
			for i := range a % 5 {
				key := []string{"user.", "trusted.", "security."}[i%3] + fmt.Sprint(i, strings.Repeat("k", b%200))
				e.xattrs[key] = strings.Repeat("v", b*a%3000)
				attr.Xattrs = append(attr.Xattrs, erofs.Xattr{Name: key, Value: []byte(e.xattrs[key])})
			}
			switch op {
			case 0:
				e.id, err = w.AddDir(attr)
				dirs = append(dirs, e.id)
				paths[e.id] = strings.TrimPrefix(paths[dir]+"/"+name, "./")
				tree[e.id] = map[string]*entry{}
			case 1, 2: // zeros and noise by turns
				var c bytes.Buffer
				for i := 0; i < a%7; i++ {
					c.Write(make([]byte, b*700*(i%2)))
					c.Write(bytes.Repeat([]byte{byte(a)}, b*b%70000))
				}
				e.content = c.String()
				d, derr := w.WriteData(&c, int64(c.Len()))
				require.NoError(t, derr)
				if op == 2 && b%2 == 0 {
					require.NoError(t, w.Discard(d))
					continue
				}
				e.id, err = w.AddFile(attr, d)
			case 3:
				target := strings.Repeat("t", 1+a*b%4095)
				e.content = "-> " + target
				e.id, err = w.AddSymlink(attr, []byte(target))
			case 4:
				attr.Mode = attr.Mode&0o7777 | []uint16{erofs.ModeChar, erofs.ModeBlock, erofs.ModeFIFO, erofs.ModeSocket}[b%4]
				e.id, err = w.AddSpecial(attr)
			case 5: // a hard link
				all = linked(all, tree)
				if len(all) == 0 || tree[all[b%len(all)].id] != nil {
					continue
				}
				e = all[b%len(all)]
			case 6: // gone
				for _, name := range sortedKeys(tree[dir]) {
					if v := tree[dir][name]; tree[v.id] == nil {
						require.NoError(t, w.Unlink(v.id))
						delete(tree[dir], name)
						break
					}
				}
				continue
			}
			require.NoError(t, err)
			w.Link(e.id)
			tree[dir][name] = e
			if op != 5 {
				all = append(all, e)
			}
		}
		require.NoError(t, w.Close(root, func(dir erofs.NodeID, yield func([]byte, erofs.NodeID) bool) {
			for _, name := range sortedKeys(tree[dir]) {
				if !yield([]byte(name), tree[dir][name].id) {
					return
				}
			}
		}))
		require.Equal(t, w.Size(), int64(len(out)))

		fsys, err := oracle.Open(bytes.NewReader(out))
		require.NoError(t, err)
		for dir, entries := range tree {
			require.Equal(t, len(entries), len(names(t, fsys, paths[dir])))
			for name, e := range entries {
				path := strings.TrimPrefix(paths[dir]+"/"+name, "./")
				s := stat(t, fsys, path)
				if len(e.xattrs) > 0 {
					require.Equal(t, e.xattrs, s.Xattrs, "%q", path)
				}
				switch {
				case s.Mode.IsRegular():
					require.True(t, e.content == string(readFile(t, fsys, path)), "%q", path)
				case s.Mode&fs.ModeSymlink != 0:
					target, err := fs.ReadLink(fsys, path)
					require.NoError(t, err)
					require.Equal(t, e.content, "-> "+target)
				}
			}
		}
	})
}
