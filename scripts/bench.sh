#!/bin/sh
# Measures side by side, on good KVM or in the rig.
#
#   scripts/bench.sh [BENCH FLAGS…]
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
go build -trimpath -o bin/bench ./bench
# The peer comes from the module that the differential tests use.
go build -trimpath -o bin/gokvm github.com/bobuhiro11/gokvm 2>/dev/null && gokvm="-gokvm bin/gokvm" || gokvm=
exec bin/kvmrig --fresh -- bin/bench -sandpit bin/sandpit $gokvm "$@"
