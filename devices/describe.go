package devices

// PortName says what a PC has at a port, for people who watch a guest look for
// it; "" for ports of no fame.
func PortName(port uint64) string {
	switch {
	case port == 0x20, port == 0x21, port == 0xa0, port == 0xa1:
		return "8259 interrupt controller"
	case port >= 0x40 && port <= 0x43:
		return "8254 timer"
	case port == 0x80:
		return "delay"
	case port >= 0x2f8 && port <= 0x2ff, port >= 0x3e8 && port <= 0x3ef, port >= 0x2e8 && port <= 0x2ef:
		return "another serial port"
	case port >= 0x3b0 && port <= 0x3df:
		return "video controller"
	case port >= 0xcf8 && port <= 0xcff:
		return "PCI configuration"
	}
	return ""
}

// RegisterName names the port at off of a platform device's window, for people
// who watch: device is the name that it has on the bus. Other devices' ports
// have no name.
func RegisterName(device string, off uint64, write bool) string {
	var read, written []string
	switch device {
	case "serial":
		read = []string{"RBR", "IER", "IIR", "LCR", "MCR", "LSR", "MSR", "SCR"}
		written = []string{"THR", "IER", "FCR", "LCR", "MCR", "LSR", "MSR", "SCR"}
	case "rtc":
		read = []string{"index", "data"}
	case "i8042":
		read = []string{0: "data", 1: "port B", 4: "status"}
		written = []string{0: "data", 1: "port B", 4: "command"}
	case "exit":
		read = []string{"code"}
	}
	if written == nil {
		written = read
	}
	if write {
		read = written
	}
	if off < uint64(len(read)) {
		return read[off]
	}
	return ""
}
