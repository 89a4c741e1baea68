package sandpit_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// threatsFile is the table that TestThreatTable keeps; SANDPIT_UPDATE_THREATS=1
// rewrites it.
const threatsFile = "docs/threats.md"

// attacksDir holds attacks that are tried in process and from inside a guest.
const attacksDir = "internal/hostile"

var (
	itemInName = regexp.MustCompile(`_T0*([0-9]+)(?:_|$)`)
	rowInName  = regexp.MustCompile(`_Row0*([0-9]+)(?:_|$)`)
	attackName = regexp.MustCompile(`^T([0-9]+)_[A-Za-z0-9_]+$`)
	itemInCode = regexp.MustCompile(`\bT([0-9]+)\b`)
	notInNames = regexp.MustCompile(`[^A-Za-z0-9]+`)
)

// coverage is what the repository says about threats.
type coverage struct {
	items   map[int][]string // tests, by the item of the checklist
	guest   map[int]bool     // tried from inside a guest
	code    map[int][]string // files whose comments name the item
	byRow   map[int][]string
	inTests []string // all names of tests, to look for ids in
}

// TestThreatTable: every item of the checklist and every advisory that concerns
// what exists has a test that bears its name, and docs/threats.md lists them.
func TestThreatTable(t *testing.T) {
	c := readCoverage(t)
	for _, it := range checklist {
		tests := c.items[it.number]
		switch {
		case it.out != "":
		case len(tests) == 0:
			t.Errorf("no test is named _T%d (%s)", it.number, it.title)
		case it.guest && !c.guest[it.number]:
			t.Errorf("no attack of %s is named T%d_… (%s)", attacksDir, it.number, it.title)
		}
	}
	for _, row := range advisories {
		if row.out == "" && len(c.ofRow(row)) == 0 {
			t.Errorf("no test is named after %v, nor _Row%d (%s)", row.ids, row.number, row.title)
		}
	}
	for n := range c.items {
		require.True(t, slices.ContainsFunc(checklist, func(it threat) bool { return it.number == n }), "%v: there is no item %d", c.items[n], n)
	}
	want := c.table()
	if os.Getenv("SANDPIT_UPDATE_THREATS") != "" {
		require.NoError(t, os.WriteFile(threatsFile, []byte(want), 0o644))
	}
	got, err := os.ReadFile(threatsFile)
	require.NoError(t, err)
	require.True(t, want == string(got), "%s is out of date: SANDPIT_UPDATE_THREATS=1 go test -run TestThreatTable .", threatsFile)
}

// readCoverage reads all Go files of the repository.
func readCoverage(t *testing.T) *coverage {
	c := &coverage{items: map[int][]string{}, guest: map[int]bool{}, code: map[int][]string{}, byRow: map[int][]string{}}
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		if d.IsDir() {
			if name := d.Name(); name != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		p = filepath.ToSlash(p)
		if !strings.HasSuffix(p, ".go") || path.Dir(p) == "." {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		require.NoError(t, err)
		if strings.HasSuffix(p, "_test.go") {
			c.readTests(p, f)
		} else {
			c.readCode(p, f)
		}
		return nil
	})
	require.NoError(t, err)
	for _, m := range []map[int][]string{c.items, c.code, c.byRow} {
		for n := range m {
			slices.Sort(m[n])
			m[n] = slices.Compact(m[n])
		}
	}
	slices.Sort(c.inTests)
	return c
}

// readTests takes the numbers from the names of test functions, and of attacks.
func (c *coverage) readTests(file string, f *ast.File) {
	dir := path.Dir(file)
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") && !strings.HasPrefix(fn.Name.Name, "Fuzz") {
			continue
		}
		name := dir + ": " + fn.Name.Name
		c.inTests = append(c.inTests, name)
		for rest := fn.Name.Name; ; { // T47_T48: the separator is shared
			m := itemInName.FindStringSubmatchIndex(rest)
			if m == nil {
				break
			}
			n, _ := strconv.Atoi(rest[m[2]:m[3]])
			c.items[n] = append(c.items[n], name)
			c.guest[n] = c.guest[n] || dir == attacksDir && strings.HasPrefix(fn.Name.Name, "TestMachine_")
			rest = rest[m[3]:]
		}
		if m := rowInName.FindStringSubmatch(fn.Name.Name); m != nil {
			n, _ := strconv.Atoi(m[1])
			c.byRow[n] = append(c.byRow[n], name)
		}
	}
	if dir != attacksDir {
		return
	}
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		s, err := strconv.Unquote(lit.Value)
		if err != nil || !attackName.MatchString(s) {
			return true
		}
		for rest := "_" + s; ; {
			m := itemInName.FindStringSubmatchIndex(rest)
			if m == nil {
				return true
			}
			n, _ := strconv.Atoi(rest[m[2]:m[3]])
			c.items[n] = append(c.items[n], dir+": "+s)
			c.guest[n] = true
			rest = rest[m[3]:]
		}
	})
}

// readCode takes the numbers from comments.
func (c *coverage) readCode(file string, f *ast.File) {
	room, _, _ := strings.Cut(file, "/")
	if !slices.Contains(codeRooms, room) || strings.HasPrefix(file, "virtio/virtiotest/") || path.Base(file) == "doc.go" {
		return
	}
	for _, group := range f.Comments {
		for _, m := range itemInCode.FindAllStringSubmatch(group.Text(), -1) {
			n, _ := strconv.Atoi(m[1])
			c.code[n] = append(c.code[n], file)
		}
	}
}

// ofRow are the tests of an advisory: with its id in their names, or its row.
func (c *coverage) ofRow(row threat) []string {
	tests := slices.Clone(c.byRow[row.number])
	for _, id := range row.ids {
		id = "_" + notInNames.ReplaceAllString(id, "_")
		for _, name := range c.inTests {
			if strings.HasSuffix(name, id) || strings.Contains(name, id+"_") {
				tests = append(tests, name)
			}
		}
	}
	slices.Sort(tests)
	return slices.Compact(tests)
}

// table is docs/threats.md.
func (c *coverage) table() string {
	var b strings.Builder
	b.WriteString(threatsHead)
	b.WriteString("\n## What a driver can try\n\n| | Threat | Where it is met | Tests |\n| ---: | --- | --- | --- |\n")
	for _, it := range checklist {
		where := it.where
		if where == "" {
			where = strings.Join(c.code[it.number], ", ")
		}
		if it.out != "" {
			where = "*not applicable: " + it.out + "*"
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s |\n", it.number, it.title, where, byPackage(c.items[it.number]))
	}
	b.WriteString("\n## Past bugs of others\n\n| | Advisories | Bug | Where it is met | Tests |\n| ---: | --- | --- | --- | --- |\n")
	for _, row := range advisories {
		where := row.where
		if row.out != "" {
			where = "*not applicable: " + row.out + "*"
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s |\n", row.number, strings.Join(row.ids, ", "), row.title, where, byPackage(c.ofRow(row)))
	}
	return b.String()
}

// byPackage writes "package: Test" names with each package once.
func byPackage(tests []string) string {
	var out []string
	last := ""
	for _, name := range tests {
		dir, test, _ := strings.Cut(name, ": ")
		if dir != last {
			out = append(out, fmt.Sprintf("%s: `%s`", dir, test))
			last = dir
			continue
		}
		out = append(out, "`"+test+"`")
	}
	return strings.Join(out, ", ")
}

const threatsHead = `# Threats and the tests that prove them harmless

Written by TestThreatTable, which fails when an item has no test or this file is
out of date: SANDPIT_UPDATE_THREATS=1 go test -run TestThreatTable .

A test carries an item's number in its name, as in ` + "`TestQueue_T14_AvailJump`" + `. Names
without "Test", those of internal/hostile, are attacks: TestInProcess makes each
of them on every device it is for against memory that the race detector sees, and
TestGuest_Blk and its like make it from inside a virtual machine, where a vCPU of
a program without an operating system does what an attacker's kernel would. Such a
run ends with PASS, FAIL or WEDGED for each.
`
