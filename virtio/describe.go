package virtio

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
)

// Access is a register access, decoded for people who watch.
type Access struct {
	Register string // name in virtio 1.2 §4.2.2, or "Config"
	Note     string // what the value means; "" if it speaks for itself
	Queue    int    // the selected queue, for the Queue registers
}

// Describe decodes an access of len(p) bytes at off that was just served: p is
// what was written or read. It looks at what the driver selected before, so
// that with several vCPUs at one device it may be mistaken; nothing else is.
func (t *MMIO) Describe(off uint64, write bool, p []byte) Access {
	a := Access{Register: registerName(off)}
	if off >= regConfig {
		a.Note = fmt.Sprintf("%d bytes at %d", len(p), off-regConfig)
		return a
	}
	if len(p) != 4 || off%4 != 0 {
		a.Note = "not a 32-bit access: ignored"
		return a
	}
	v := binary.LittleEndian.Uint32(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch off {
	case regMagicValue, regVendorID:
		a.Note = fmt.Sprintf("%q", p)
	case regDeviceID:
		a.Note = t.name
	case regDeviceFeatures:
		a.Note = t.features(t.regs.DeviceFeaturesSel, v)
	case regDriverFeatures:
		a.Note = t.features(t.regs.DriverFeaturesSel, v)
	case regStatus:
		a.Note = statusNames(v)
		if write && v != 0 && v != t.status() {
			a.Note += "; is " + statusNames(t.status())
		}
	case regInterruptStatus, regInterruptACK:
		a.Note = names(uint64(v), "used buffer", "configuration change")
	case regQueueNotify:
		a.Queue = int(v)
	default:
		if off >= regQueueSizeMax && off <= regQueueDeviceHigh {
			a.Queue = int(t.regs.QueueSel)
		}
	}
	return a
}

// features names the bits of one half of a feature set.
func (t *MMIO) features(sel, v uint32) string {
	if sel > 1 {
		return "no such half"
	}
	return FeatureNames(t.dev.Type(), uint64(v)<<(32*sel))
}

// FeatureNames lists the features of a device type by the names of the
// specification, without the prefixes; bits that it does not know as numbers.
func FeatureNames(deviceType uint32, features uint64) string {
	var out []string
	for f := features; f != 0; f &= f - 1 {
		out = append(out, featureName(deviceType, bits.TrailingZeros64(f)))
	}
	return strings.Join(out, " ")
}

func featureName(deviceType uint32, bit int) string {
	switch bit { // virtio 1.2 §6
	case 28:
		return "INDIRECT_DESC"
	case 29:
		return "EVENT_IDX"
	case 32:
		return "VERSION_1"
	}
	var own []string
	switch deviceType {
	case TypeBlk: // §5.2.3
		own = []string{1: "SIZE_MAX", 2: "SEG_MAX", 4: "GEOMETRY", 5: "RO", 6: "BLK_SIZE", 9: "FLUSH", 10: "TOPOLOGY",
			11: "CONFIG_WCE", 12: "MQ", 13: "DISCARD", 14: "WRITE_ZEROES", 15: "LIFETIME", 16: "SECURE_ERASE"}
	case TypeConsole: // §5.3.3
		own = []string{"SIZE", "MULTIPORT", "EMERG_WRITE"}
	case TypeBalloon: // §5.5.3
		own = []string{"MUST_TELL_HOST", "STATS_VQ", "DEFLATE_ON_OOM", "FREE_PAGE_HINT", "PAGE_POISON", "PAGE_REPORTING"}
	case TypeVsock: // §5.10.3
		own = []string{0: "STREAM", 1: "SEQPACKET"}
	}
	if bit < len(own) && own[bit] != "" {
		return own[bit]
	}
	return fmt.Sprintf("bit-%d", bit)
}

// statusNames names the bits of the device status, §2.1.
func statusNames(v uint32) string {
	if v == 0 {
		return "reset"
	}
	return names(uint64(v), "ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK", "bit-4", "bit-5", "NEEDS_RESET", "FAILED")
}

// names lists the names of the bits that are set, lowest first.
func names(v uint64, of ...string) string {
	var out []string
	for ; v != 0; v &= v - 1 {
		bit := bits.TrailingZeros64(v)
		if bit < len(of) {
			out = append(out, of[bit])
		} else {
			out = append(out, fmt.Sprintf("bit-%d", bit))
		}
	}
	return strings.Join(out, " ")
}
