package devices

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
