package sandbox_test

import (
	"bytes"
	"go/ast"
	"go/doc"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAPI compares what this package exports with the list in
// testdata/api/sandbox.txt, so that a change of the API shows in a diff.
// SANDPIT_UPDATE_API=1 writes the list anew.
func TestAPI(t *testing.T) {
	golden := filepath.Join("..", "testdata", "api", "sandbox.txt")
	got := exported(t)
	if os.Getenv("SANDPIT_UPDATE_API") != "" {
		require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "the API changed; if it is meant, SANDPIT_UPDATE_API=1 go test ./sandbox -run TestAPI")
}

// exported lists the package's exported declarations, a line each, sorted.
func exported(t *testing.T) string {
	t.Helper()
	fset := token.NewFileSet()
	paths, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, path, nil, 0)
		require.NoError(t, err)
		files = append(files, f)
	}
	p, err := doc.NewFromFiles(fset, files, "github.com/sandpit-vm/sandpit/sandbox")
	require.NoError(t, err)
	var lines []string
	add := func(n ast.Node) {
		var b bytes.Buffer
		require.NoError(t, format.Node(&b, fset, n))
		lines = append(lines, strings.Join(strings.Fields(b.String()), " "))
	}
	funcs := func(fs []*doc.Func) {
		for _, f := range fs {
			f.Decl.Doc, f.Decl.Body = nil, nil
			add(f.Decl)
		}
	}
	values := func(vs []*doc.Value) {
		for _, v := range vs {
			for _, name := range v.Names {
				if token.IsExported(name) {
					lines = append(lines, v.Decl.Tok.String()+" "+name)
				}
			}
		}
	}
	funcs(p.Funcs)
	values(p.Consts)
	values(p.Vars)
	for _, typ := range p.Types {
		spec := typ.Decl.Specs[0].(*ast.TypeSpec)
		lines = append(lines, "type "+typ.Name)
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, field := range s.Fields.List {
				for _, name := range field.Names {
					if name.IsExported() {
						var b bytes.Buffer
						require.NoError(t, format.Node(&b, fset, field.Type))
						lines = append(lines, "type "+typ.Name+" field "+name.Name+" "+b.String())
					}
				}
			}
		}
		funcs(typ.Funcs)
		funcs(typ.Methods)
		values(typ.Consts)
		values(typ.Vars)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}
