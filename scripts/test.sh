#!/bin/sh
# Runs every test: the pure ones here, those that need a VM on good KVM or in
# the rig. Ends with the number of VM tests that ran; none is a failure.
#
#   scripts/test.sh [GO TEST FLAGS…]
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0

logdir=$(mktemp -d)
trap 'rm -rf "$logdir"' EXIT
export SANDPIT_VMTEST_LOG="$logdir/vmtests"
: >"$SANDPIT_VMTEST_LOG"
bookworm=$(scripts/debian-kernel.sh bin/debian-kernel bookworm)
trixie=$(scripts/debian-kernel.sh bin/debian-kernel trixie)
export SANDPIT_DEBIAN_KERNELS="$bookworm:$trixie"

failed=
part() {
	echo "== $1"
	shift
	"$@" || failed="$failed $1"
}

SANDPIT_TESTIMAGES=$PWD/bin/testimages
SANDPIT_TREELIST=$PWD/bin/treelist
export SANDPIT_TESTIMAGES SANDPIT_TREELIST
part "images for tests" scripts/testimages.sh "$SANDPIT_TESTIMAGES"
go build -trimpath -ldflags='-s -w' -o "$SANDPIT_TREELIST" ./cmd/sandpit/testdata/treelist

# In short mode no test starts a VM or a rig.
part "pure tests" go test -short "$@" ./...
# Other programs are the judges here: skopeo, umoci, qemu-img, fsck.erofs.
part "tests beside other tools" go test -p 1 -timeout 10m "$@" ./qcow2 ./ociroot/...
part "tests of the command line without VMs" go test -timeout 10m -run '^TestHost' "$@" ./cmd/sandpit
# In the rig two packages at a time, the long ones first: each has an emulated
# machine of its own. On good KVM one: tests look for what others left behind.
atonce=2
if bin/sandpit doctor >/dev/null 2>&1; then atonce=1; fi
part "tests in VMs" go test -p $atonce -timeout 20m -skip '^TestHost' -exec "$PWD/bin/kvmrig --fresh --share $logdir" "$@" \
	./sandbox ./cmd/sandpit ./internal/lifecycle ./guest/agent ./kvm/... ./vmm ./internal/hostile \
	./examples/tenbytes ./examples/serialhello ./examples/owndevice ./examples/bootlinux ./examples/shell
part "tests of the rig and of a program outside the module" go test -p 1 -timeout 15m "$@" ./internal/rig/... ./examples
part "the embedded initramfs is current" go run ./guest/initramfs/mkinitramfs -check
part "the embedded image is current" go run ./guest/defaultroot/mkroot -check
part "the embedded upper template is current" go run ./guest/upper/mkupper -check

ran=$(wc -l <"$SANDPIT_VMTEST_LOG")
echo "VM tests that ran: $ran"
if [ "$ran" -eq 0 ]; then
	echo "FAIL: no VM test ran" >&2
	exit 1
fi
if [ -n "$failed" ]; then
	echo "FAIL: see above" >&2
	exit 1
fi
echo "all tests passed"
