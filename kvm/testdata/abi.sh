#!/bin/sh
# Compiles and runs abi.c against the system's kernel headers; go generate runs it.
set -eu
cd "$(dirname "$0")"
dir=$(mktemp -d)
trap 'rm -r "$dir"' EXIT
${CC:-cc} ${CFLAGS:-} -Wall -o "$dir/abi" abi.c
"$dir/abi" >abi_amd64.golden
