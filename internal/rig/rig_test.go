package rig

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

func TestConfig_Defaults(t *testing.T) {
	c, err := Config{}.validate()
	require.NoError(t, err)
	require.Equal(t, defaultCPUs, c.CPUs)
	require.LessOrEqual(t, c.Memory, defaultMemory)
	require.Equal(t, 10*time.Minute, c.Idle)
}

func TestConfig_ReportsEverythingThatIsWrong(t *testing.T) {
	_, err := Config{CPUs: 33, Memory: 1, Timeout: -1, Shares: []string{"/", "/does/not/exist", "/etc/passwd"}}.validate()
	for _, s := range []string{"--cpus", "--memory", "--timeout", "--share /:", "/does/not/exist", "/etc/passwd"} {
		require.ErrorContains(t, err, s)
	}
	_, err = Config{Memory: 1 << 40}.validate()
	require.ErrorIs(t, err, ErrNoMemory)
}

func TestConfig_SharesAreRealPaths(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	require.NoError(t, os.Mkdir(real, 0o755))
	require.NoError(t, os.Symlink(real, link))
	c, err := Config{Shares: []string{link}}.validate()
	require.NoError(t, err)
	require.Equal(t, []string{real}, c.Shares)
}

func TestConfig_FitsAWarmRig(t *testing.T) {
	s := wire.Status{Version: wire.Version, CPUs: 2, Memory: 8192, Shares: []string{"/a"}}
	for _, c := range []Config{{}, {CPUs: 2}, {Memory: 8192}} {
		c, err := c.validate()
		require.NoError(t, err)
		require.NoError(t, c.fits(s))
	}
	require.NoError(t, Config{Shares: []string{"/a", "/a/b"}}.fits(s))
	for _, c := range []Config{{CPUs: 3}, {Memory: 512}, {Append: "x"}, {Kernel: "/k"}} {
		c, err := c.validate()
		require.NoError(t, err)
		require.Error(t, c.fits(s))
	}
	require.Error(t, Config{Shares: []string{"/ab"}}.fits(s))
	s.Version++
	require.Error(t, Config{}.fits(s))
}

func TestQEMU_CommandLine(t *testing.T) {
	args := strings.Join(qemuArgs(Config{CPUs: 3, Memory: 512, Shares: []string{"/a,b"}}, 2600000), " ")
	require.Contains(t, args, "-smp 3 -m 512")
	require.Contains(t, args, "tsc_early_khz=2600000")
	require.Contains(t, args, "path=/,security_model=none,multidevs=remap,readonly=on")
	require.Contains(t, args, "path=/a,,b", "QEMU's options escape a comma by doubling it")
	require.NotContains(t, args, "path=/a,,b,readonly")
}

func TestQEMU_Missing(t *testing.T) {
	c := Config{QEMU: "/nowhere/qemu"}
	_, _, err := boot(c, prepare(c), nil)
	require.ErrorIs(t, err, ErrNoQEMU)
	require.ErrorContains(t, err, "apt-get install qemu-system-x86")
}

func TestKernel_MustBeELF(t *testing.T) {
	_, err := openKernel("/does/not/exist")
	require.ErrorIs(t, err, ErrNoKernel)
	_, err = openKernel("/etc/passwd")
	require.ErrorIs(t, err, ErrNoKernel)
	require.ErrorContains(t, err, "ELF")
}

func TestStripELF_KeepsWhatIsLoaded(t *testing.T) {
	exe, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	small := stripELF(exe)
	require.Less(t, len(small), len(exe))
	before, err := elf.NewFile(bytes.NewReader(exe))
	require.NoError(t, err)
	after, err := elf.NewFile(bytes.NewReader(small))
	require.NoError(t, err)
	require.Empty(t, after.Sections)
	require.Len(t, after.Progs, len(before.Progs))
	for i, p := range before.Progs {
		if p.Filesz == 0 {
			continue
		}
		want, got := make([]byte, p.Filesz), make([]byte, p.Filesz)
		_, err1 := p.ReadAt(want, 0)
		_, err2 := after.Progs[i].ReadAt(got, 0)
		require.NoError(t, err1)
		require.NoError(t, err2)
		if p.Off == 0 { // holds the header, which has changed
			want, got = want[64:], got[64:]
		}
		require.True(t, bytes.Equal(want, got), "segment %d", i)
	}
}

func FuzzStripELF(f *testing.F) {
	header := make([]byte, 64+56)
	copy(header, "\x7fELF\x02\x01")
	header[32], header[54], header[56] = 64, 56, 1
	f.Add(header)
	f.Fuzz(func(t *testing.T, exe []byte) {
		if n := len(stripELF(exe)); n > len(exe) {
			t.Fatalf("%d bytes became %d", len(exe), n)
		}
	})
}

func TestCPIO_Layout(t *testing.T) {
	var b bytes.Buffer
	writeCPIO(&b, []byte("12345"))
	require.Zero(t, b.Len()%4)
	archive := b.String()
	require.True(t, strings.HasPrefix(archive, "070701"))
	at := strings.Index(archive, "init\x00")
	require.Positive(t, at)
	header := archive[at-110 : at]
	require.True(t, strings.HasPrefix(header, "070701"))
	require.Equal(t, "000081ed", header[14:22], "mode")
	require.Equal(t, "00000005", header[54:62], "size")
	data := (at + 5 + 3) &^ 3
	require.Equal(t, "12345\x00\x00\x00", archive[data:data+8])
	require.Contains(t, archive, "TRAILER!!!\x00")
}

func TestTail_KeepsTheEnd(t *testing.T) {
	var x tail
	for range 10_000 {
		_, _ = x.Write([]byte("a line of the console\r\n"))
	}
	_, _ = x.Write([]byte("Kernel panic\x00\xff"))
	require.True(t, x.contains("Kernel panic"))
	require.LessOrEqual(t, len(x.buf), 3*tailBytes)
	require.True(t, strings.HasSuffix(x.String(), "Kernel panic\x00?"))
	require.Len(t, strings.Split(x.String(), "\n"), tailLines)
	require.Empty(t, (&tail{}).String())
}

func TestTSC_SourcesAgree(t *testing.T) {
	khz := tscKHz()
	require.Greater(t, khz, uint32(200_000))
	require.InEpsilon(t, measureTSC(50*time.Millisecond), khz, 0.005)
}

func TestEnviron_SaysWhereOnce(t *testing.T) {
	t.Setenv(EnvVar, "elsewhere")
	n := 0
	for _, kv := range environ(EnvEmulated) {
		if strings.HasPrefix(kv, EnvVar+"=") {
			n++
			require.Equal(t, "KVMRIG=emulated", kv)
		}
	}
	require.Equal(t, 1, n)
}

func TestGoTest_OutputsAreShared(t *testing.T) {
	work, out := t.TempDir(), t.TempDir()
	cover := filepath.Join(work, "gocoverdir")
	require.NoError(t, os.Mkdir(cover, 0o755))
	require.Empty(t, testOutputs([]string{"/bin/sh", "-test.outputdir=" + out}))
	require.Empty(t, testOutputs([]string{"/x/kvm.test", "-test.testlogfile=" + work + "/log", "-test.outputdir=" + out, "-test.run=coverprofile"}))
	dirs := testOutputs([]string{"/x/kvm.test", "-test.gocoverdir=" + cover, "-test.coverprofile=" + work + "/c.out", "-test.cpuprofile=cpu.out", "-test.outputdir=" + out})
	require.ElementsMatch(t, []string{cover, work, out}, dirs)
	c, err := Config{Shares: dirs}.validate()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{work, out}, c.Shares, "what lies below another is shared with it")
}
