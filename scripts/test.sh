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

# Packages whose tests start VMs.
vm_packages="./kvm/... ./vmm/... ./sandbox/... ./cmd/sandpit/... ./examples/..."

status=0
echo "== pure tests"
go test -short "$@" ./... || status=1

echo "== VM tests"
# One package at a time: each has the whole machine, emulated or not.
go test -p 1 -timeout 15m -exec "$PWD/bin/kvmrig --share $logdir" "$@" $vm_packages || status=1

echo "== rig tests"
go test -timeout 10m "$@" ./internal/rig/... || status=1

echo "== artifacts"
go run ./guest/initramfs/mkinitramfs -check || status=1
go run ./guest/defaultroot/mkroot -check || status=1

ran=$(wc -l <"$SANDPIT_VMTEST_LOG")
echo "VM tests that ran: $ran"
if [ "$ran" -eq 0 ]; then
	echo "FAIL: no VM test ran" >&2
	status=1
fi
[ "$status" -eq 0 ] && echo "all tests passed" || echo "FAIL: see above"
exit "$status"
