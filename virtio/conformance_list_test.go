package virtio_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// updateDocs makes TestConformanceList write its part of docs/devices.md.
const updateDocs = "SANDPIT_UPDATE_DOCS"

// deviceSections are all sections of virtio 1.2 with requirements of devices
// that are in a package like this: chapters 2 and 6, the MMIO transport, and the
// devices that exist here. Those of PCI, channel I/O and other devices are not.
var deviceSections = []struct{ number, title string }{
	{"2.1.2", "Device Status Field"},
	{"2.2.2", "Feature Bits"},
	{"2.4.1", "Device Reset"},
	{"2.5.2", "Device Configuration Space"},
	{"2.6.1.1.1", "Virtqueue Reset"},
	{"2.6.1.2.1", "Virtqueue Re-enable"},
	{"2.7.4.1", "Message Framing"},
	{"2.7.5.1", "The Virtqueue Descriptor Table"},
	{"2.7.5.3.2", "Indirect Descriptors"},
	{"2.7.7.2", "Used Buffer Notification Suppression"},
	{"2.7.8.2", "The Virtqueue Used Ring"},
	{"2.7.10.2", "Available Buffer Notification Suppression"},
	{"2.8.12", "Packed Virtqueues"},
	{"2.8.15", "Packed: The Virtqueue Descriptor Table"},
	{"2.8.18", "Packed: Scatter-Gather Support"},
	{"2.10.2", "Shared Memory Regions"},
	{"4.2.2.1", "MMIO Device Register Layout"},
	{"5.2.5.2", "Block: Device Initialization"},
	{"5.2.6.2", "Block: Device Operation"},
	{"5.3.5.1", "Console: Device Initialization"},
	{"5.3.6.2.1", "Console: Multiport Device Operation"},
	{"5.4.6.2", "Entropy: Device Operation"},
	{"5.5.3.2", "Balloon: Feature bits"},
	{"5.5.6.2", "Balloon: Device Operation"},
	{"5.5.6.3.2", "Balloon: Memory Statistics"},
	{"5.5.6.5.2", "Balloon: Free Page Hinting"},
	{"5.5.6.6.2", "Balloon: Page Poison"},
	{"5.5.6.7.2", "Balloon: Free Page Reporting"},
	{"5.10.6.1.2", "Socket: Virtqueue Flow Control"},
	{"5.10.6.3.2", "Socket: Buffer Space Management"},
	{"5.10.6.4.2", "Socket: Receive and Transmit"},
	{"5.19.5.1", "PMEM: Device Initialization"},
	{"5.19.7.1", "PMEM: Virtqueue flush"},
	{"5.19.7.3", "PMEM: Virtqueue return"},
	{"6.2", "Reserved Feature Bits"},
}

// doesNotApply are the sections that bind none of our devices, and why. There is no
// requirement that applies and is not met.
var doesNotApply = map[string]string{
	"2.6.1.1.1": "RING_RESET is not offered: Linux asks for it only to resize the queues of network devices",
	"2.6.1.2.1": "RING_RESET is not offered",
	"2.8.12":    "RING_PACKED is not offered: the split ring has one layout to check and one to attack",
	"2.8.15":    "RING_PACKED is not offered",
	"2.8.18":    "RING_PACKED is not offered",
	"2.10.2":    "no device has a shared memory region; the registers for them say so",
	"5.3.5.1":   "EMERG_WRITE is not offered, so there is no emerg_wr to write: early output is the serial port's",
	"5.3.6.2.1": "MULTIPORT is not offered: one port, no control queue",
	"5.5.3.2":   "MUST_TELL_HOST is not offered: a page is good again as soon as it is touched",
	"5.5.6.5.2": "FREE_PAGE_HINT is not offered: it is for migration",
	"5.5.6.6.2": "PAGE_POISON is not offered: pages that were given back read as zeros",
}

// conformanceList is the table of docs/devices.md, from the sources of the tests.
func conformanceList(t *testing.T) string {
	met := map[string][]string{}
	entry := regexp.MustCompile(`(?m)^\t+\{"(\d+(?:\.\d+)+)", "([^"]+)", func\(t \*testing\.T\) \{`)
	total := 0
	for _, file := range []string{"conformance_test.go", "conformance_vsock_test.go"} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range entry.FindAllStringSubmatch(string(source), -1) {
			met[m[1]] = append(met[m[1]], m[2])
			total++
		}
	}
	require.Equal(t, len(conformanceRing)+len(conformanceMMIO)+len(conformanceDevices)+3, total, "an entry is not written like the others")
	var b strings.Builder
	b.WriteString("| Section | | What is tested, or why it does not apply |\n| --- | --- | --- |\n")
	known := map[string]bool{}
	for _, s := range deviceSections {
		known[s.number] = true
		why, not := doesNotApply[s.number]
		require.NotEqual(t, not, len(met[s.number]) > 0, "section %s must either have tests or be in doesNotApply", s.number)
		text := strings.Join(met[s.number], "; ")
		if not {
			text = "*Does not apply:* " + why
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", s.number, s.title, text)
	}
	for number := range met {
		require.True(t, known[number], "section %s has tests and is not in the list", number)
	}
	for number := range doesNotApply {
		require.True(t, known[number], "section %s does not apply and is not in the list", number)
	}
	return b.String()
}

// docs/devices.md says what is tested, and what does not apply.
func TestConformanceList(t *testing.T) {
	const path = "../docs/devices.md"
	const start, end = "<!-- conformance: written by TestConformanceList -->\n", "<!-- end -->\n"
	doc, err := os.ReadFile(path)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(doc), start)
	require.True(t, ok)
	have, tail, ok := strings.Cut(rest, end)
	require.True(t, ok)
	want := conformanceList(t)
	if os.Getenv(updateDocs) != "" {
		require.NoError(t, os.WriteFile(path, []byte(head+start+want+end+tail), 0o644))
		return
	}
	require.Equal(t, want, have, "run with %s=1", updateDocs)
}
