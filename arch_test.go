package sandpit_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kernel"
	"github.com/sandpit-vm/sandpit/virtio"
)

const module = "github.com/sandpit-vm/sandpit"

// room says what a package may import of this module, and why it is a room of
// its own.
type room struct {
	imports []string
	why     string
}

// house is every package of this module. A package that is not here, or an
// import that is not listed, fails the test: change the table in the commit
// that changes the walls, with the reason.
var house = map[string]room{
	"kvm/guestmem": {nil, "guest addresses become bytes here and nowhere else"},
	"kvm":          {[]string{"kvm/guestmem"}, "/dev/kvm as Go types, no policy"},
	"kvm/kvmtest":  {[]string{"kvm", "kvm/guestmem"}, "guests of a few bytes, for tests"},

	"devices":           {nil, "the buses and the devices of a PC; never KVM"},
	"virtio":            {[]string{"kvm/guestmem"}, "the device side of VIRTIO; never KVM, so its tests run anywhere"},
	"virtio/virtiotest": {[]string{"virtio", "kvm/guestmem"}, "the driver side, for tests and fuzzing"},
	"boot":              {[]string{"kvm/guestmem"}, "a kernel as bytes in guest memory; a pure function"},
	"vmm":               {[]string{"kvm", "kvm/guestmem", "devices", "virtio", "boot"}, "the machine"},

	"guest/proto":                 {nil, "what host and guest say to each other"},
	"guest/agent":                 {[]string{"guest/proto"}, "PID 1; runs inside only"},
	"cmd/agent":                   {[]string{"guest/agent"}, "its main"},
	"guest/userland/shell":        {nil, "the shell of the default image; runs inside only"},
	"guest/userland":              {[]string{"guest/userland/shell"}, "its commands; run inside only"},
	"cmd/userland":                {[]string{"guest/userland"}, "their main"},
	"guest/initramfs":             {[]string{"internal/assets"}, "the agent, packed and embedded"},
	"guest/initramfs/mkinitramfs": {[]string{"internal/assets/mkasset"}, "packs it"},
	"guest/defaultroot":           {[]string{"internal/assets"}, "the default image, embedded"},
	"guest/defaultroot/mkroot":    {[]string{"guest/userland", "internal/assets/mkasset"}, "packs it"},
	"guest/upper":                 {nil, "the writable disk, from an embedded template"},
	"guest/upper/mkupper":         {[]string{"guest/upper", "internal/assets/mkasset"}, "makes it"},
	"kernel":                      {[]string{"internal/assets"}, "the bundled kernel, embedded"},

	"ociroot":         {[]string{"ociroot/flatten", "ociroot/erofs"}, "image references become root file systems; knows no VM"},
	"ociroot/flatten": {[]string{"ociroot/erofs"}, "layers and directories become one tree; the only reader of hostile archives"},
	"ociroot/erofs":   {nil, "an EROFS writer"},

	"qcow2": {nil, "QEMU's disk image format as a block device's back end"},

	"internal/assets":         {nil, "embedded files, decompressed once"},
	"internal/assets/mkasset": {nil, "makes them; never linked into a program that runs"},
	"internal/state":          {nil, "a sandbox on disk: directory, lock, atomic files"},
	"internal/hostile":        {[]string{"boot", "kvm/guestmem", "virtio", "vmm"}, "a guest that attacks its machine; tests only"},
	"internal/logfile":        {nil, "logs on disk: lines of JSON in files of bounded size"},
	"internal/lifecycle":      {nil, "random lives of sandboxes against a model; tests only"},
	"internal/monitor":        {[]string{"internal/logfile", "internal/state", "guest/proto", "kvm", "qcow2", "virtio", "vmm"}, "the process that holds one VM"},
	"sandbox": {[]string{"internal/logfile", "internal/monitor", "internal/state", "guest/proto", "guest/initramfs", "guest/defaultroot", "guest/upper", "kernel", "kvm", "ociroot", "ociroot/flatten"},
		"the public API: policy and names; the mechanics are the monitor's"},
	"cmd/sandpit": {[]string{"sandbox"}, "the command line: proof that the API suffices"},

	"internal/rig/wire": {nil, "what the rig's two sides say to each other"},
	"internal/rig/l1":   {[]string{"internal/rig/wire"}, "the rig's inside: PID 1 of the emulated machine"},
	"internal/rig":      {[]string{"internal/rig/l1", "internal/rig/wire", "internal/state", "kvm", "kernel"}, "a machine with a working KVM where there is none"},
	"cmd/kvmrig":        {[]string{"internal/rig"}, "its main"},

	"examples":           {nil, "tests of the programs in it"},
	"bench":              {[]string{"sandbox", "vmm", "devices", "kvm", "kvm/guestmem", "kernel", "guest/initramfs"}, "measurements beside the peers, of each layer by itself"},
	"examples/hello":     {[]string{"sandbox"}, "the library in a few lines"},
	"examples/image":     {[]string{"sandbox"}, "the same in an image"},
	"examples/bootlinux": {[]string{"vmm"}, "the machine in a few more"},

	"examples/tenbytes":    {[]string{"kvm", "kvm/guestmem"}, "the smallest guest, on /dev/kvm alone"},
	"examples/serialhello": {[]string{"vmm"}, "a guest of a few bytes in a machine"},
	"examples/owndevice":   {[]string{"vmm"}, "a device that is not in the box"},
	"examples/shell":       {[]string{"vmm", "virtio", "kernel", "guest/defaultroot"}, "a machine with a disk and a console, up to the prompt"},
}

// unsafeRooms may use package unsafe, in files named so.
var unsafeRooms = []string{"kvm", "kvm/guestmem"}

// testOnly are imports that tests may have on top of their room's.
var testOnly = []string{"guest/userland", "guest/agent", "kvm/kvmtest", "virtio/virtiotest", "kernel", "kvm/guestmem", "sandbox", "virtio", "guest/defaultroot"}

func TestHouse(t *testing.T) {
	fset := token.NewFileSet()
	commented := map[string]bool{}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		if d.IsDir() {
			if name := d.Name(); name != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		dir := filepath.ToSlash(filepath.Dir(p))
		if !strings.HasSuffix(p, ".go") || dir == "." {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ImportsOnly|parser.ParseComments)
		require.NoError(t, err)
		checkFile(t, dir, p, f)
		if f.Doc != nil && (!strings.HasSuffix(p, "_test.go") || dir == "examples") {
			commented[dir] = true
		}
		return nil
	})
	require.NoError(t, err)
	for dir := range house {
		require.True(t, commented[dir], "package %s has no package comment, or does not exist", dir)
	}
}

// checkFile holds one file against the table.
func checkFile(t *testing.T, dir, file string, f *ast.File) {
	r, listed := house[dir]
	require.True(t, listed, "%s: package %s is not in the table of rooms", file, dir)
	isTest := strings.HasSuffix(file, "_test.go")
	for _, spec := range f.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		require.NoError(t, err)
		switch {
		case imp == "C":
			t.Errorf("%s uses cgo", file)
		case imp == "unsafe":
			name := path.Base(file)
			named := strings.HasPrefix(name, "abi_") || strings.Contains(name, "_unsafe")
			if !slices.Contains(unsafeRooms, dir) || !named && !isTest {
				t.Errorf("%s imports unsafe: only abi_*.go and *_unsafe.go of %v may", file, unsafeRooms)
			}
		case imp == module || strings.HasPrefix(imp, module+"/"):
			rel := strings.TrimPrefix(imp, module+"/")
			ok := slices.Contains(r.imports, rel) || isTest && (rel == dir || slices.Contains(testOnly, rel))
			if !ok {
				t.Errorf("%s imports %s, which package %s may not (%s)", file, rel, dir, r.why)
			}
		}
	}
}

// The bundled kernel has every option that a device of ours needs of it.
func TestKernelHasWhatDevicesNeed(t *testing.T) {
	configs := virtio.GuestConfigs()
	require.NotEmpty(t, configs)
	for _, c := range configs {
		require.True(t, kernel.HasConfig(c), "%s is not set in kernel/config", c)
	}
}
