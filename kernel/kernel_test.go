package kernel_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kernel"
)

// maxCompressed keeps the binary, and every download of it, small.
const maxCompressed = 4_500_000

// decompress does not use assets, so that it cannot share its mistakes.
func decompress(t *testing.T) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer d.Close()
	image, err := d.DecodeAll(kernel.Image().Compressed, nil)
	require.NoError(t, err)
	return image
}

func TestImage_IsWhatTheConstantsSay(t *testing.T) {
	asset := kernel.Image()
	image := decompress(t)
	require.Equal(t, asset.Size, int64(len(image)))
	require.Equal(t, asset.SHA256, sha256.Sum256(image))
	require.LessOrEqual(t, len(asset.Compressed), maxCompressed)
}

func TestImage_OpensFromTheCache(t *testing.T) {
	f, err := kernel.Image().Open(t.TempDir())
	require.NoError(t, err)
	defer f.Close()
	e, err := elf.NewFile(f)
	require.NoError(t, err)
	require.Equal(t, elf.EM_X86_64, e.Machine)
}

// TestImage_HasEntryPoints checks both ways in: the 64-bit entry of the ELF
// header, and the PVH note's 32-bit one (XEN_ELFNOTE_PHYS32_ENTRY, 18).
func TestImage_HasEntryPoints(t *testing.T) {
	e, err := elf.NewFile(bytes.NewReader(decompress(t)))
	require.NoError(t, err)
	require.Equal(t, elf.ELFCLASS64, e.Class)
	require.Equal(t, elf.ET_EXEC, e.Type)

	var text *elf.Prog
	var pvh uint64
	for _, p := range e.Progs {
		if p.Type == elf.PT_LOAD && p.Paddr <= e.Entry && e.Entry < p.Paddr+p.Filesz {
			text = p
		}
		if p.Type == elf.PT_NOTE {
			notes := make([]byte, p.Filesz)
			_, err := p.ReadAt(notes, 0)
			require.NoError(t, err)
			if entry, ok := pvhEntry(notes); ok {
				pvh = entry
			}
		}
	}
	require.NotNil(t, text, "no segment holds the entry point %#x", e.Entry)
	require.Equal(t, uint64(0x1000000), text.Paddr, "the kernel is linked to run at 16 MiB")
	require.NotZero(t, pvh, "no PVH note")
	require.True(t, text.Paddr <= pvh && pvh < text.Paddr+text.Filesz, "PVH entry %#x", pvh)
}

// pvhEntry walks ELF notes: name size, descriptor size, type, then both,
// each padded to four bytes.
func pvhEntry(notes []byte) (uint64, bool) {
	for len(notes) >= 12 {
		nameLen := (int(binary.LittleEndian.Uint32(notes)) + 3) &^ 3
		descLen := int(binary.LittleEndian.Uint32(notes[4:]))
		kind := binary.LittleEndian.Uint32(notes[8:])
		end := 12 + nameLen + (descLen+3)&^3
		if end > len(notes) {
			return 0, false
		}
		if kind == 18 && string(notes[12:15]) == "Xen" {
			desc := make([]byte, 8)
			copy(desc, notes[12+nameLen:12+nameLen+descLen])
			return binary.LittleEndian.Uint64(desc), true
		}
		notes = notes[end:]
	}
	return 0, false
}

// TestConfig_CarriesTheFragment is build.sh's check once more, on what was
// committed: the fragment and the image must not drift apart.
func TestConfig_CarriesTheFragment(t *testing.T) {
	fragment, err := os.ReadFile("fragment.config")
	require.NoError(t, err)
	have := map[string]bool{}
	for _, line := range lines(kernel.Config()) {
		have[line] = true
	}
	checked := 0
	for _, line := range lines(fragment) {
		switch {
		case strings.HasPrefix(line, "CONFIG_"):
			require.True(t, have[line], "not in config: %s", line)
			checked++
		case strings.HasPrefix(line, "# CONFIG_") && strings.HasSuffix(line, " is not set"):
			name := strings.Fields(line)[1]
			require.False(t, kernel.HasConfig(name), "on in config: %s", name)
			checked++
		}
	}
	require.Greater(t, checked, 250, "the fragment was not read")
}

// TestConfig_HasWhatSandboxesNeed names the promises, so that nobody trims
// one of them away together with its line in the fragment.
func TestConfig_HasWhatSandboxesNeed(t *testing.T) {
	for use, names := range map[string]string{
		"boot":           "64BIT SMP PVH KVM_GUEST PARAVIRT X86_MPPARSE EARLY_PRINTK BLK_DEV_INITRD DEVTMPFS DEVPORT",
		"virtio":         "VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES VIRTIO_BLK VIRTIO_NET VIRTIO_VSOCKETS NET_9P_VIRTIO HW_RANDOM_VIRTIO VIRTIO_BALLOON VIRTIO_CONSOLE VIRTIO_FS",
		"file systems":   "EROFS_FS EROFS_FS_XATTR EROFS_FS_POSIX_ACL EXT4_FS EXT4_FS_POSIX_ACL OVERLAY_FS FUSE_FS 9P_FS TMPFS TMPFS_XATTR TMPFS_POSIX_ACL BLK_DEV_LOOP",
		"cgroup v2":      "CGROUPS MEMCG CGROUP_SCHED CFS_BANDWIDTH CGROUP_PIDS BLK_CGROUP BLK_DEV_THROTTLING CPUSETS CGROUP_BPF",
		"namespaces":     "UTS_NS TIME_NS IPC_NS USER_NS PID_NS NET_NS",
		"confinement":    "SECCOMP_FILTER SECURITY_LANDLOCK BPF_SYSCALL BPF_JIT",
		"virtualization": "KVM KVM_AMD KVM_INTEL",
		"network":        "IPV6 TUN VETH BRIDGE BRIDGE_NETFILTER DUMMY MACVLAN IPVLAN WIREGUARD IP_MULTIPLE_TABLES IPV6_MULTIPLE_TABLES PACKET",
		"netfilter":      "NF_TABLES NF_TABLES_INET NFT_CT NFT_NAT NFT_MASQ NFT_LIMIT NFT_LOG NFT_REJECT NFT_COMPAT NETFILTER_XT_MATCH_CONNTRACK NETFILTER_XT_MATCH_ADDRTYPE NETFILTER_XT_MATCH_COMMENT NETFILTER_XT_MARK NETFILTER_XT_TARGET_MASQUERADE",
		"system calls":   "IO_URING USERFAULTFD MEMFD_CREATE FHANDLE EPOLL EVENTFD SIGNALFD TIMERFD UNIX98_PTYS",
	} {
		for _, name := range strings.Fields(names) {
			require.True(t, kernel.HasConfig(name), "%s: CONFIG_%s is off", use, name)
		}
	}
	for _, name := range strings.Fields("MODULES PCI ACPI AUDIT DEBUG_INFO NUMA RANDOMIZE_BASE RELOCATABLE") {
		require.False(t, kernel.HasConfig(name), "CONFIG_%s is on", name)
	}
}

func TestHasConfig(t *testing.T) {
	require.True(t, kernel.HasConfig("SMP"))
	require.True(t, kernel.HasConfig("CONFIG_SMP"))
	require.False(t, kernel.HasConfig("MODULES"))
	require.False(t, kernel.HasConfig("NR_CPUS"), "a number is not a yes")
	require.False(t, kernel.HasConfig("VIRTIO_MM"), "a prefix is not the option")
	require.False(t, kernel.HasConfig(""))
}

func TestConfig_IsACopy(t *testing.T) {
	clear(kernel.Config())
	require.True(t, kernel.HasConfig("SMP"))
}

// TestSums_MatchTheConstants ties the file that a person checks by hand to
// the constants that the program checks.
func TestSums_MatchTheConstants(t *testing.T) {
	sums, err := os.ReadFile("SHA256SUMS")
	require.NoError(t, err)
	want := map[string]string{
		"vmlinux":     fmt.Sprintf("%x", kernel.Image().SHA256),
		"vmlinux.zst": fmt.Sprintf("%x", sha256.Sum256(kernel.Image().Compressed)),
		"config":      fmt.Sprintf("%x", sha256.Sum256(kernel.Config())),
	}
	for _, line := range lines(sums) {
		sum, name, ok := strings.Cut(line, "  ")
		require.True(t, ok, line)
		require.Equal(t, want[name], sum, name)
		delete(want, name)
	}
	require.Empty(t, want)
}

func lines(b []byte) []string {
	var all []string
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" {
			all = append(all, line)
		}
	}
	return all
}
