package flatten_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	oracle "github.com/erofs/go-erofs"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// memory is an output without a file.
type memory []byte

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(*m) {
		*m = append(*m, make([]byte, need-len(*m))...)
	}
	return copy((*m)[off:], p), nil
}

func (m *memory) Truncate(size int64) error {
	*m = append((*m)[:min(int64(len(*m)), size)], make([]byte, max(0, size-int64(len(*m))))...)
	return nil
}

// readAll reads all of an image through another reader, and returns how many
// names it has.
func readAll(t *testing.T, image []byte) (n int64) {
	fsys, err := oracle.Open(bytes.NewReader(image))
	require.NoError(t, err)
	require.NoError(t, fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err, "%q", p)
		n++
		info, err := fs.Lstat(fsys, p)
		require.NoError(t, err, "%q", p)
		switch {
		case info.Mode().IsRegular():
			f, err := fsys.Open(p)
			require.NoError(t, err, "%q", p)
			size, err := io.Copy(io.Discard, f)
			require.NoError(t, err, "%q", p)
			require.Equal(t, info.Size(), size, "%q", p)
			require.NoError(t, f.Close())
		case info.Mode()&fs.ModeSymlink != 0:
			_, err := fs.ReadLink(fsys, p)
			require.NoError(t, err, "%q", p)
		}
		return nil
	}))
	return n
}

// templates are entries as bytes: PAX headers, header and data.
func templates(t testing.TB) [][]byte {
	attrs := func(e *ent) {
		e.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b", "SCHILY.xattr.trusted.overlay.opaque": "y"}
	}
	ents := []ent{
		file("a", "content"), dir("d", 0o755), file("d/f", "x"), symlink("l", "d"), link("h", "d/f"), file("l/g/h", "y"),
		whiteout("d/.wh.f"), whiteout("l/.wh..wh..opq"), with(file("x", "x"), attrs), file("zeros", string(make([]byte, 70_000))),
		with(file("c", ""), func(e *ent) { e.Typeflag = tar.TypeChar }), dir(".", 0o700), symlink("d", "/l/../a"),
		with(file("old", ""), func(e *ent) { e.ModTime = time.Unix(-5, 0); e.Uid = 1 << 30 }),
		file("long/"+strings.Repeat("n", 255)+"/x", "long"),
	}
	var raw [][]byte
	for _, e := range ents {
		b := archive(t, e)
		raw = append(raw, b[:len(b)-1024])
	}
	return raw
}

// Any two archives make an image that another reader accepts, or an error that
// says whose fault it is. The input is a program: which entries, and which of
// their bytes to change. Checksums are right again afterwards, or nothing would
// get past them.
func FuzzLayer(f *testing.F) {
	raw := templates(f)
	f.Add([]byte{0, 1, 2, 3, 4, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14})
	f.Add([]byte{1, 4, 128 + 9, 0, 1, 'x', 128 + 4, 0, 156, 'g', 7, 255, 3, 128 + 0, 4, 124, '9', 11})
	f.Add([]byte{200, 1, 0, 0, 200, 2, 5, '=', 254, 9, 255})
	f.Fuzz(func(t *testing.T, program []byte) {
		layers := [][]byte{nil}
		for len(program) > 0 && len(layers) < 4 {
			op := program[0]
			program = program[1:]
			last := &layers[len(layers)-1]
			switch {
			case op == 255:
				layers = append(layers, nil)
				continue
			case op == 254 && len(program) > 0: // the archive ends early
				*last = (*last)[:max(0, len(*last)-int(program[0])*8)]
				program = program[1:]
				continue
			}
			entry := bytes.Clone(raw[int(op&127)%len(raw)])
			for ; op >= 128 && len(program) >= 3; op = program[2] {
				at := int(program[0])<<8 | int(program[1])
				entry[at%min(len(entry), 2048)] = program[2]
				if program = program[3:]; len(program) < 3 {
					break
				}
			}
			for i := 0; i < min(len(entry), 2048); i += 512 {
				if string(entry[i+257:i+262]) == "ustar" {
					fixChecksum(entry[i : i+512])
				}
			}
			*last = append(*last, entry...)
		}
		var m memory
		b := flatten.New(&m, flatten.Options{Limits: flatten.Limits{Entries: 10_000, Bytes: 1 << 22, NameBytes: 1 << 20}})
		for _, l := range layers {
			if err := b.Layer(context.Background(), bytes.NewReader(l)); err != nil {
				var e *flatten.Error
				require.ErrorAs(t, err, &e)
				require.True(t, errors.Is(err, flatten.ErrMalformed) || errors.Is(err, flatten.ErrLimit), "%v", err)
				return
			}
		}
		stats, err := b.Close()
		require.NoError(t, err)
		require.Equal(t, stats.ImageBytes, int64(len(m)))
		require.Equal(t, stats.Files+stats.Dirs+stats.Symlinks+stats.Specials+stats.Links, readAll(t, m))
	})
}

// The same with archives that are always well-formed: the input is a program of
// entries with few names, so that they meet. A model with plain maps, which
// knows layers and no whiteout but a name's and a directory's, says what is to
// come out.
func FuzzEntries(f *testing.F) {
	f.Add([]byte{0, 1, 2, 1, 0, 5, 9, 3, 4, 10, 0, 0, 2, 33, 4, 8, 0, 0})
	f.Add([]byte("\x00abcdefghijklmnopqrstuvwxyz0123456789"))
	f.Fuzz(func(t *testing.T, program []byte) {
		names := []string{"a", "b", "a/a", "a/b", "b/a", "a/a/a", "b/b/b", "c", "c/a", "a/c"}
		var m memory
		b := flatten.New(&m, flatten.Options{Image: erofs.Options{}})
		model := map[string]node{}
		for layer := 1; len(program) > 0 && layer < 4; layer++ {
			var ents []ent
			for len(program) >= 2 {
				op, name := program[0]%6, names[int(program[1])%len(names)]
				program = program[2:]
				if op == 5 {
					break
				}
				parent := ""
				if i := bytes.LastIndexByte([]byte(name), '/'); i >= 0 {
					parent = name[:i]
				}
				if op < 2 && !makeParents(model, parent, layer) {
					continue
				}
				switch op {
				case 0:
					if old, ok := model[name]; !ok || !old.dir {
						removeBelow(model, name, nil)
					}
					n := model[name]
					model[name] = node{dir: true, layer: layer, data: n.data}
					ents = append(ents, dir(name, 0o700))
				case 1:
					removeBelow(model, name, nil)
					model[name] = node{layer: layer, data: name}
					ents = append(ents, file(name, name))
				case 2: // whiteout
					if parent == "" {
						ents = append(ents, whiteout(".wh."+name))
					} else {
						ents = append(ents, whiteout(parent+"/.wh."+name[len(parent)+1:]))
					}
					removeBelow(model, name, func(n node) bool { return n.layer < layer })
				default: // opaque
					ents = append(ents, whiteout(name+"/.wh..wh..opq"))
					removeBelow(model, name+"/", func(n node) bool { return n.layer < layer })
				}
			}
			require.NoError(t, b.Layer(context.Background(), bytes.NewReader(archive(t, ents...))))
		}
		_, err := b.Close()
		require.NoError(t, err)
		fsys, err := oracle.Open(bytes.NewReader(m))
		require.NoError(t, err)
		got := map[string]string{}
		require.NoError(t, fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
			require.NoError(t, err)
			if d.IsDir() {
				got[p] = "/"
				return nil
			}
			b, err := fs.ReadFile(fsys, p)
			got[p] = string(b)
			return err
		}))
		want := map[string]string{".": "/"}
		for name, n := range model {
			if want[name] = n.data; n.dir {
				want[name] = "/"
			}
		}
		require.Equal(t, want, got)
	})
}

// node is a name of FuzzEntries' model.
type node struct {
	dir   bool
	layer int
	data  string
}

// makeParents makes a directory and those above it the layer's. It says no if
// one is a file of the same layer, which would be an error.
func makeParents(model map[string]node, dir string, layer int) bool {
	var paths []string
	for i := range len(dir) + 1 {
		if dir != "" && (i == len(dir) || dir[i] == '/') {
			paths = append(paths, dir[:i])
		}
	}
	for _, p := range paths {
		if n, ok := model[p]; ok && !n.dir && n.layer == layer {
			return false
		}
	}
	for _, p := range paths {
		if n, ok := model[p]; ok && !n.dir {
			removeBelow(model, p, nil)
		}
		model[p] = node{dir: true, layer: layer}
	}
	return true
}

// removeBelow removes a name and those below it that f selects, or all. With a
// slash behind the name, it stays itself.
func removeBelow(model map[string]node, name string, f func(node) bool) {
	for p, n := range model {
		below := len(p) > len(name) && p[:len(name)] == name && (p[len(name)] == '/' || name[len(name)-1] == '/')
		if (p == name || below) && (f == nil || f(n)) {
			delete(model, p)
		}
	}
}
