#!/bin/sh
# Runs the main job and shows it: commands in a microVM of their own.
set -eu
cd "$(dirname "$0")/.."

run() {
	echo
	echo "\$ $*"
	"$@"
}

echo "This host:"
bin/sandpit doctor && direct=yes || direct=no
if [ "$direct" = no ]; then
	echo
	echo "KVM cannot be used here as it is, so the demonstration runs in the rig:"
	echo "an emulated machine whose KVM works. Expect emulated speed."
fi
run bin/kvmrig -- bin/sandpit run -- sh -c 'echo "hello from $(uname -sr) on $(hostname)"; id; free -m'
run bin/kvmrig -- sh -c 'echo "a pipe through a VM" | bin/sandpit run -- tr a-z A-Z'
set +e
run bin/kvmrig -- bin/sandpit run -- sh -c 'echo out; echo err >&2; exit 7'
echo "exit status: $?"
