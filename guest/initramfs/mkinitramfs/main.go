// Command mkinitramfs builds the guest's initramfs: it compiles cmd/agent and
// packs it, always to the same bytes. It is run from anywhere in the module.
//
//	mkinitramfs [-check] [-o FILE]
package main

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
	"github.com/u-root/u-root/pkg/cpio"
)

const (
	archiveFile   = "guest/initramfs/initramfs.cpio.zst"
	constantsFile = "guest/initramfs/initramfs_generated.go"

	// maxArchive bounds what -check decompresses.
	maxArchive = 64 << 20
)

func main() {
	check := flag.Bool("check", false, "compare with the committed archive instead of replacing it")
	out := flag.String("o", "", "write the uncompressed archive to this `file` and change nothing else")
	flag.Parse()
	if err := run(*check, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitramfs:", err)
		os.Exit(1)
	}
}

func run(check bool, out string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	agent, err := buildAgent(root)
	if err != nil {
		return err
	}
	archive, err := pack(agent)
	if err != nil {
		return err
	}
	fmt.Printf("agent %d bytes, archive %d bytes, sha256 %x\n", len(agent), len(archive), sha256.Sum256(archive))
	switch {
	case out != "":
		return os.WriteFile(out, archive, 0o644)
	case check:
		return compare(root, archive)
	}
	return install(root, archive)
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

// buildAgent compiles cmd/agent with nothing of this machine in it.
func buildAgent(root string) ([]byte, error) {
	version, err := toolchain(root)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "mkinitramfs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "agent")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid=", "-o", bin, "./cmd/agent")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	cmd.Env = buildEnv(os.Environ(), version)
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build cmd/agent with %s: %w", version, err)
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

// pack makes the archive: the same inode numbers, times and owners always.
func pack(agent []byte) ([]byte, error) {
	records := []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("proc", 0o755),
		cpio.Directory("sys", 0o755),
		cpio.StaticFile("init", string(agent), 0o755),
	}
	var buf bytes.Buffer
	w := cpio.Newc.Writer(&buf)
	for i, r := range records {
		r.Ino = uint64(i + 1)
		r.NLink = 1
		if r.Mode&cpio.S_IFMT == cpio.S_IFDIR {
			r.NLink = 2
		}
		if err := w.WriteRecord(cpio.MakeReproducible(r)); err != nil {
			return nil, err
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func compare(root string, archive []byte) error {
	f, err := os.Open(filepath.Join(root, archiveFile))
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := zstd.NewReader(f)
	if err != nil {
		return err
	}
	defer d.Close()
	committed, err := io.ReadAll(io.LimitReader(d, maxArchive))
	if err != nil {
		return fmt.Errorf("%s: %w", archiveFile, err)
	}
	if !bytes.Equal(committed, archive) {
		return fmt.Errorf("%s (sha256 %x) is not what the sources give; run: go run ./guest/initramfs/mkinitramfs",
			archiveFile, sha256.Sum256(committed))
	}
	constants, err := os.ReadFile(filepath.Join(root, constantsFile))
	if err != nil {
		return err
	}
	if !bytes.Equal(constants, generate(archive)) {
		return fmt.Errorf("%s does not match %s", constantsFile, archiveFile)
	}
	return nil
}

func install(root string, archive []byte) error {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	defer e.Close()
	if err := os.WriteFile(filepath.Join(root, archiveFile), e.EncodeAll(archive, nil), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, constantsFile), generate(archive), 0o644)
}

// generate is the Go source with the archive's size and digest.
func generate(archive []byte) []byte {
	var b bytes.Buffer
	b.WriteString("// Code generated by mkinitramfs; DO NOT EDIT.\n\npackage initramfs\n\n")
	fmt.Fprintf(&b, "const imageSize = %d\n\n", len(archive))
	b.WriteString("// imageSHA256 is the digest of the uncompressed archive.\n")
	b.WriteString("func imageSHA256() [32]byte {\n\treturn [32]byte{\n")
	sum := sha256.Sum256(archive)
	for row := range slices.Chunk(sum[:], 8) {
		b.WriteByte('\t')
		for i, v := range row {
			if i == 0 {
				b.WriteByte('\t')
			} else {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "0x%02x,", v)
		}
		b.WriteByte('\n')
	}
	b.WriteString("\t}\n}\n")
	return b.Bytes()
}
