#!/bin/sh
# Measures side by side: what needs VMs on good KVM or in the rig, the rest
# here. Peers that are missing are skipped, saying so.
#
#   scripts/bench.sh [-part pull,boot,images,read,memory] [BENCH FLAGS…]
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
# Small: it is also the init of a peer's guest.
go build -trimpath -ldflags='-s -w' -o bin/bench ./bench
# The peer comes from the module that the differential tests use.
go build -trimpath -o bin/gokvm github.com/bobuhiro11/gokvm 2>/dev/null && gokvm="-gokvm bin/gokvm" || gokvm=
scripts/testimages.sh bin/testimages || echo "bench: the test images were not made" >&2
exec bin/bench $gokvm "$@"
