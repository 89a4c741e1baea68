package virtio

// The register window of the MMIO transport, virtio 1.2 §4.2.2.

// WindowSize is the size of a device's register window: control registers in
// the first 0x100 bytes, then the configuration space.
const WindowSize = 0x1000

// NotifyOffset is where QueueNotify lies. The value written is the number of
// the queue, so an ioeventfd matches four bytes of data at this offset.
const NotifyOffset = regQueueNotify

// Register offsets, virtio 1.2 §4.2.2, table 4.1.
const (
	regMagicValue        = 0x000 // R
	regVersion           = 0x004 // R
	regDeviceID          = 0x008 // R
	regVendorID          = 0x00c // R
	regDeviceFeatures    = 0x010 // R
	regDeviceFeaturesSel = 0x014 // W
	regDriverFeatures    = 0x020 // W
	regDriverFeaturesSel = 0x024 // W
	regQueueSel          = 0x030 // W
	regQueueSizeMax      = 0x034 // R
	regQueueSize         = 0x038 // W
	regQueueReady        = 0x044 // RW
	regQueueNotify       = 0x050 // W
	regInterruptStatus   = 0x060 // R
	regInterruptACK      = 0x064 // W
	regStatus            = 0x070 // RW
	regQueueDescLow      = 0x080 // W
	regQueueDescHigh     = 0x084 // W
	regQueueDriverLow    = 0x090 // W
	regQueueDriverHigh   = 0x094 // W
	regQueueDeviceLow    = 0x0a0 // W
	regQueueDeviceHigh   = 0x0a4 // W
	regSHMSel            = 0x0ac // W
	regSHMLenLow         = 0x0b0 // R
	regSHMLenHigh        = 0x0b4 // R
	regSHMBaseLow        = 0x0b8 // R
	regSHMBaseHigh       = 0x0bc // R
	regQueueReset        = 0x0c0 // RW, with RING_RESET only, which is not offered
	regConfigGeneration  = 0x0fc // R
	regConfig            = 0x100
)

const (
	magicValue  = 0x74726976 // "virt"
	mmioVersion = 2
	vendorID    = 0x54495053 // "SPIT"
)

// Device status bits, virtio 1.2 §2.1.
const (
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
	StatusNeedsReset  = 64
	StatusFailed      = 128
)

// Interrupt status bits, virtio 1.2 §4.2.2.
const (
	InterruptUsed   = 1
	InterruptConfig = 2
)

// registerName decodes an offset for traces.
func registerName(off uint64) string {
	switch off {
	case regMagicValue:
		return "MagicValue"
	case regVersion:
		return "Version"
	case regDeviceID:
		return "DeviceID"
	case regVendorID:
		return "VendorID"
	case regDeviceFeatures:
		return "DeviceFeatures"
	case regDeviceFeaturesSel:
		return "DeviceFeaturesSel"
	case regDriverFeatures:
		return "DriverFeatures"
	case regDriverFeaturesSel:
		return "DriverFeaturesSel"
	case regQueueSel:
		return "QueueSel"
	case regQueueSizeMax:
		return "QueueSizeMax"
	case regQueueSize:
		return "QueueSize"
	case regQueueReady:
		return "QueueReady"
	case regQueueNotify:
		return "QueueNotify"
	case regInterruptStatus:
		return "InterruptStatus"
	case regInterruptACK:
		return "InterruptACK"
	case regStatus:
		return "Status"
	case regQueueDescLow:
		return "QueueDescLow"
	case regQueueDescHigh:
		return "QueueDescHigh"
	case regQueueDriverLow:
		return "QueueDriverLow"
	case regQueueDriverHigh:
		return "QueueDriverHigh"
	case regQueueDeviceLow:
		return "QueueDeviceLow"
	case regQueueDeviceHigh:
		return "QueueDeviceHigh"
	case regSHMSel:
		return "SHMSel"
	case regSHMLenLow:
		return "SHMLenLow"
	case regSHMLenHigh:
		return "SHMLenHigh"
	case regSHMBaseLow:
		return "SHMBaseLow"
	case regSHMBaseHigh:
		return "SHMBaseHigh"
	case regQueueReset:
		return "QueueReset"
	case regConfigGeneration:
		return "ConfigGeneration"
	}
	if off >= regConfig {
		return "Config"
	}
	return "reserved"
}
