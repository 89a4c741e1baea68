package virtio

import "encoding/binary"

// Limits and well-known numbers, virtio 1.2 §5.10.
const (
	vsockHeaderLen  = 44
	vsockMaxPayload = 64 << 10 // of one packet, either way (T60)

	vsockHostCID = 2
	vsockAnyPort = 1<<32 - 1 // VMADDR_PORT_ANY: no socket has it

	vsockTypeStream = 1
)

// What a packet is for, virtio 1.2 §5.10.6.
const (
	vsockOpInvalid       = 0
	vsockOpRequest       = 1
	vsockOpResponse      = 2
	vsockOpRst           = 3
	vsockOpShutdown      = 4
	vsockOpRW            = 5
	vsockOpCreditUpdate  = 6
	vsockOpCreditRequest = 7
)

// Flags of a SHUTDOWN packet, virtio 1.2 §5.10.6.6. They are permanent once sent.
const (
	vsockShutReceive = 1 << 0 // the sender of the packet receives no more
	vsockShutSend    = 1 << 1 // the sender of the packet sends no more
	vsockShutBoth    = vsockShutReceive | vsockShutSend
)

// vsockHeader is struct virtio_vsock_hdr (virtio 1.2 §5.10.6), in private
// memory: what came from the guest was copied once, and then looked at.
type vsockHeader [vsockHeaderLen]byte

func (h *vsockHeader) srcCID() uint64   { return binary.LittleEndian.Uint64(h[0:]) }
func (h *vsockHeader) dstCID() uint64   { return binary.LittleEndian.Uint64(h[8:]) }
func (h *vsockHeader) srcPort() uint32  { return binary.LittleEndian.Uint32(h[16:]) }
func (h *vsockHeader) dstPort() uint32  { return binary.LittleEndian.Uint32(h[20:]) }
func (h *vsockHeader) length() uint32   { return binary.LittleEndian.Uint32(h[24:]) }
func (h *vsockHeader) typ() uint16      { return binary.LittleEndian.Uint16(h[28:]) }
func (h *vsockHeader) op() uint16       { return binary.LittleEndian.Uint16(h[30:]) }
func (h *vsockHeader) flags() uint32    { return binary.LittleEndian.Uint32(h[32:]) }
func (h *vsockHeader) bufAlloc() uint32 { return binary.LittleEndian.Uint32(h[36:]) }
func (h *vsockHeader) fwdCnt() uint32   { return binary.LittleEndian.Uint32(h[40:]) }

func (h *vsockHeader) setAddresses(srcCID, dstCID uint64, srcPort, dstPort uint32) {
	binary.LittleEndian.PutUint64(h[0:], srcCID)
	binary.LittleEndian.PutUint64(h[8:], dstCID)
	binary.LittleEndian.PutUint32(h[16:], srcPort)
	binary.LittleEndian.PutUint32(h[20:], dstPort)
}

func (h *vsockHeader) setKind(typ, op uint16, flags, length uint32) {
	binary.LittleEndian.PutUint32(h[24:], length)
	binary.LittleEndian.PutUint16(h[28:], typ)
	binary.LittleEndian.PutUint16(h[30:], op)
	binary.LittleEndian.PutUint32(h[32:], flags)
}

func (h *vsockHeader) setCredit(bufAlloc, fwdCnt uint32) {
	binary.LittleEndian.PutUint32(h[36:], bufAlloc)
	binary.LittleEndian.PutUint32(h[40:], fwdCnt)
}
