package boot

import "encoding/binary"

// Fields of the zero page outside the setup header (zero-page.rst).
const (
	zpACPIRSDP        = 0x070
	zpExtRamdiskImage = 0x0c0
	zpExtRamdiskSize  = 0x0c4
	zpExtCmdLinePtr   = 0x0c8
	zpE820Entries     = 0x1e8
	zpE820Table       = 0x2d0

	loaderUndefined = 0xff // boot.rst, "type_of_loader"
	protocolELF     = 0x20f
	setupRNGSeed    = 9 // SETUP_RNG_SEED
	setupDataHeader = 16
)

// zeroPage returns the struct boot_params. A bzImage's own setup header is the
// base of its; an ELF kernel has none and gets one of protocol 2.15.
func zeroPage(img *Image, memmap []e820Entry, initrd, initrdSize, setupData uint64) []byte {
	le := binary.LittleEndian
	b := make([]byte, sizeZeroPage)
	if img.header != nil {
		// From setup_sects on: what comes before is the boot sector, and its
		// "sentinel" byte must be 0 here (boot.rst, "64-bit Boot Protocol").
		copy(b[hdrSetupSects:], img.header[hdrSetupSects:])
	} else {
		le.PutUint16(b[hdrBootFlag:], bootFlag)
		le.PutUint32(b[hdrMagic:], headerMagic)
		le.PutUint16(b[hdrVersion:], protocolELF)
		le.PutUint32(b[hdrCmdlineSize:], uint32(img.CmdlineMax))
		le.PutUint32(b[hdrInitrdAddrMax:], uint32(img.initrdLimit-1))
	}
	b[hdrTypeOfLoader] = loaderUndefined
	b[hdrLoadflags] |= loadedHigh
	le.PutUint32(b[hdrCode32Start:], uint32(img.Start))

	le.PutUint64(b[zpACPIRSDP:], uint64(addrACPI))
	le.PutUint32(b[hdrCmdLinePtr:], uint32(addrCmdline))
	le.PutUint32(b[zpExtCmdLinePtr:], uint32(uint64(addrCmdline)>>32))
	le.PutUint32(b[hdrRamdiskImage:], uint32(initrd))
	le.PutUint32(b[zpExtRamdiskImage:], uint32(initrd>>32))
	le.PutUint32(b[hdrRamdiskSize:], uint32(initrdSize))
	le.PutUint32(b[zpExtRamdiskSize:], uint32(initrdSize>>32))
	le.PutUint64(b[hdrSetupData:], setupData)

	b[zpE820Entries] = byte(len(memmap))
	putE820(b[zpE820Table:], memmap)
	return b
}

// seedData returns a struct setup_data with the seed: it goes into the kernel's
// random pool, which is then ready from the start.
func seedData(seed []byte) []byte {
	b := make([]byte, setupDataHeader, setupDataHeader+len(seed))
	binary.LittleEndian.PutUint32(b[8:], setupRNGSeed)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(seed)))
	return append(b, seed...)
}
