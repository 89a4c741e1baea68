package virtio

import "slices"

// GuestConfigs lists the options that a guest kernel needs for the transport and
// all devices of this package, so that a test can hold a kernel's configuration
// against it.
func GuestConfigs() []string {
	return slices.Concat(
		transportGuestConfigs[:],
		[]string{blkGuestConfig, rngGuestConfig, consoleGuestConfig},
		[]string{"CONFIG_VSOCKETS", "CONFIG_VIRTIO_VSOCKETS"},
		balloonGuestConfigs[:],
		pmemGuestConfigs[:],
	)
}
