// Package mkasset makes the files that internal/assets embeds: it compiles a
// program for the guest and has it packed (or has the file made otherwise),
// compresses the result and generates the Go constants that go with it, always
// to the same bytes. Its users are commands
// of a few lines.
package mkasset

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Spec says what to make of what. Paths are relative to the module's root.
type Spec struct {
	Program string // the package that is compiled, "cmd/agent"; "" if there is none
	Maker   string // the package of the command that makes it, for messages
	Dir     string // the package that embeds it
	File    string // the file it embeds, in Dir
	// Pack makes the file's uncompressed bytes of the program, nil without one.
	// The same program must give the same bytes.
	Pack func(program []byte) ([]byte, error)
}

// maxSize bounds what -check decompresses.
const maxSize = 256 << 20

// Main is the main function of the command that makes the file:
//
//	COMMAND [-check] [-o FILE]
func Main(s Spec) {
	check := flag.Bool("check", false, "compare with the committed file instead of replacing it")
	out := flag.String("o", "", "write the uncompressed result to this `file` and change nothing else")
	flag.Parse()
	if err := s.run(*check, *out); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(s.Maker), err)
		os.Exit(1)
	}
}

func (s Spec) run(check bool, out string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	var program []byte
	if s.Program != "" {
		if program, err = s.build(root); err != nil {
			return err
		}
	}
	image, err := s.Pack(program)
	if err != nil {
		return err
	}
	if s.Program != "" {
		fmt.Printf("%s: %d bytes, in ", s.Program, len(program))
	}
	fmt.Printf("%s: %d bytes, sha256 %x\n", s.File, len(image), sha256.Sum256(image))
	switch {
	case out != "":
		return os.WriteFile(out, image, 0o644)
	case check:
		return s.compare(root, image)
	}
	return s.install(root, image)
}

func moduleRoot() (string, error) {
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	path := strings.TrimSpace(string(gomod))
	if path == "" || path == os.DevNull {
		return "", errors.New("not inside the module")
	}
	return filepath.Dir(path), nil
}

// toolchain reads the toolchain line of go.mod: the compiler that the
// committed archive was built with.
func toolchain(root string) (string, error) {
	gomod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(gomod)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "toolchain "); ok {
			return v, nil
		}
	}
	return "", errors.New("go.mod has no toolchain line")
}

// build compiles the program with nothing of this machine in it.
func (s Spec) build(root string) ([]byte, error) {
	version, err := toolchain(root)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "mkasset-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid=", "-o", bin, "./"+s.Program)
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	cmd.Env = buildEnv(os.Environ(), version)
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build %s with %s: %w", s.Program, version, err)
	}
	return os.ReadFile(bin)
}

// buildEnv replaces all that decides what the compiler makes.
func buildEnv(env []string, version string) []string {
	fixed := []string{
		"GOTOOLCHAIN=" + version, "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "CGO_ENABLED=0",
		"GOFLAGS=", "GOEXPERIMENT=", "GOFIPS140=off", "GOWORK=off", "GODEBUG=",
	}
	kept := slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.ContainsFunc(fixed, func(f string) bool { return strings.HasPrefix(f, name+"=") })
	})
	return append(kept, fixed...)
}

// file is where the compressed result lies, constants what goes with it.
func (s Spec) file(root string) string { return filepath.Join(root, s.Dir, s.File) }

func (s Spec) constants(root string) string {
	name, _, _ := strings.Cut(s.File, ".")
	return filepath.Join(root, s.Dir, name+"_generated.go")
}

func (s Spec) compare(root string, image []byte) error {
	f, err := os.Open(s.file(root))
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := zstd.NewReader(f)
	if err != nil {
		return err
	}
	defer d.Close()
	committed, err := io.ReadAll(io.LimitReader(d, maxSize))
	if err != nil {
		return fmt.Errorf("%s: %w", s.file(root), err)
	}
	if !bytes.Equal(committed, image) {
		return fmt.Errorf("%s (sha256 %x) is not what the sources give; run: go run ./%s",
			s.file(root), sha256.Sum256(committed), s.Maker)
	}
	constants, err := os.ReadFile(s.constants(root))
	if err != nil {
		return err
	}
	if !bytes.Equal(constants, s.generate(image)) {
		return fmt.Errorf("%s does not match %s", s.constants(root), s.file(root))
	}
	return nil
}

func (s Spec) install(root string, image []byte) error {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	defer e.Close()
	packed := e.EncodeAll(image, nil)
	fmt.Printf("compressed: %d bytes\n", len(packed))
	if err := os.WriteFile(s.file(root), packed, 0o644); err != nil {
		return err
	}
	return os.WriteFile(s.constants(root), s.generate(image), 0o644)
}

// generate is the Go source with the image's size and digest.
func (s Spec) generate(image []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "// Code generated by %s; DO NOT EDIT.\n\npackage %s\n\n", filepath.Base(s.Maker), filepath.Base(s.Dir))
	fmt.Fprintf(&b, "const imageSize = %d\n\n", len(image))
	b.WriteString("// imageSHA256 is the digest of the uncompressed file.\n")
	b.WriteString("func imageSHA256() [32]byte {\n\treturn [32]byte{\n")
	sum := sha256.Sum256(image)
	for row := range slices.Chunk(sum[:], 8) {
		b.WriteString("\t\t")
		for i, v := range row {
			if i > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "0x%02x,", v)
		}
		b.WriteByte('\n')
	}
	b.WriteString("\t}\n}\n")
	return b.Bytes()
}
