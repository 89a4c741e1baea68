#!/bin/sh
# Builds the guest kernel, reproducibly: SOURCE + fragment.config -> config,
# vmlinux.zst, SHA256SUMS, COPYING and vmlinux_generated.go, all beside this
# script. It asks no question and needs about five minutes on two cores.
#
#   build.sh           build and replace the files above
#   build.sh --check   build and compare with SHA256SUMS; replace nothing
#   build.sh --config  stop after writing config (seconds)
#
# SANDPIT_KERNEL_BUILD names the build directory (default: in the user's
# cache); SANDPIT_KERNEL_TARBALL a source tarball to use instead of the
# package's. The tarball's digest is checked in every case.
set -eu
umask 022
export LC_ALL=C TZ=UTC

mode=${1:-build}
here=$(cd "$(dirname "$0")" && pwd)
source_field() { sed -n "s/^$1=//p" "$here/SOURCE"; }
say() { echo "kernel/build.sh: $*" >&2; }
die() { say "$*"; exit 1; }

case $mode in build | --check | --config) ;; *) die "unknown argument $mode (want none, --check or --config)" ;; esac

package=$(source_field package)
version=$(source_field version)
tarball=${SANDPIT_KERNEL_TARBALL:-$(source_field tarball)}
digest=$(source_field sha256)

# What is missing, by package.
missing=
for pair in flex:flex bison:bison bc:bc make:make gcc:gcc ld:binutils xz:xz-utils zstd:zstd; do
	command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -e /usr/include/gelf.h ] || missing="$missing libelf-dev"
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
[ -e "$tarball" ] || missing="$missing $package=$version"
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ]; then
		die "missing packages; run: sudo apt-get install --no-install-recommends$missing"
	fi
	say "installing$missing"
	apt-get update -q >&2
	# shellcheck disable=SC2086 # a list of packages
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2 ||
		die "apt-get failed; if it no longer offers $package=$version, take that version from Debian's snapshot archive and set SANDPIT_KERNEL_TARBALL, or change SOURCE"
fi

got=$(sha256sum "$tarball" | cut -d' ' -f1)
[ "$got" = "$digest" ] || die "$tarball has digest $got, SOURCE wants $digest ($package $version)"

same_tool() { # field, what is here
	want=$(source_field "$1")
	[ "$2" = "$want" ] || say "warning: the $1 is $2, SOURCE names $want: the bytes will differ"
}
same_tool compiler "$(gcc --version | head -n 1)"
same_tool linker "$(ld --version | head -n 1)"
same_tool zstd "$(zstd -qV 2>/dev/null || zstd -V | sed 's/.* v\([0-9.]*\),.*/\1/')"

# Unpack once per source digest.
base=${SANDPIT_KERNEL_BUILD:-${XDG_CACHE_HOME:-${HOME:-${TMPDIR:-/tmp}}/.cache}/sandpit/kernel-build}
tree=$base/linux-$(echo "$digest" | cut -c1-12)
if [ ! -e "$tree/.sandpit-unpacked" ]; then
	say "unpacking $(basename "$tarball") into $tree"
	rm -rf "$tree"
	mkdir -p "$tree"
	tar -C "$tree" --strip-components=1 -xJf "$tarball"
	touch "$tree/.sandpit-unpacked"
fi

# Nothing of this machine, this user or this moment goes into the image.
# Tools that would leave their version in the configuration are masked.
export KBUILD_BUILD_USER=sandpit KBUILD_BUILD_HOST=sandpit KBUILD_BUILD_VERSION=1
export KBUILD_BUILD_TIMESTAMP='Wed Jan  1 00:00:00 UTC 2025' SOURCE_DATE_EPOCH=1735689600
unset CC HOSTCC LD KCONFIG_CONFIG KBUILD_OUTPUT KCFLAGS KAFLAGS KCPPFLAGS MAKEFLAGS ARCH CROSS_COMPILE LOCALVERSION
kmake() { make -s -C "$tree" ARCH=x86 RUSTC=false BINDGEN=false PAHOLE=false LOCALVERSION= "$@"; }

# allnoconfig under the fragment: what nobody asked for is off.
KCONFIG_ALLCONFIG=$here/fragment.config kmake allnoconfig >/dev/null
lost=
while IFS= read -r line; do
	case $line in
	CONFIG_*=*) grep -qxF -- "$line" "$tree/.config" || lost="$lost
  $line (got: $(grep -E "^(# )?${line%%=*}[= ]" "$tree/.config" || echo nothing))" ;;
	'# CONFIG_'*' is not set')
		name=${line#\# }
		name=${name%% *}
		! grep -q "^$name=" "$tree/.config" || lost="$lost
  $line (got: $(grep "^$name=" "$tree/.config"))" ;;
	esac
done <"$here/fragment.config"
[ -z "$lost" ] || die "these lines of fragment.config did not survive (a dependency is off, or something selects it):$lost"
if [ "$mode" = --config ]; then
	cp "$tree/.config" "$here/config"
	exit 0
fi

say "building on $(nproc) processors"
kmake -j"$(nproc)" vmlinux

# Boot needs the segments and the PVH note; a panic's symbols are in kallsyms.
out=$base/out
rm -rf "$out"
mkdir -p "$out"
strip --strip-all --remove-section=.comment -o "$out/vmlinux" "$tree/vmlinux"
zstd -q -19 --single-thread --no-check -o "$out/vmlinux.zst" "$out/vmlinux"
cp "$tree/.config" "$out/config"
(cd "$out" && sha256sum vmlinux vmlinux.zst config >SHA256SUMS)

if [ "$mode" = --check ]; then
	diff "$here/SHA256SUMS" "$out/SHA256SUMS" >&2 || die "the build differs from SHA256SUMS"
	say "the build is identical to SHA256SUMS"
	exit 0
fi

release=$(kmake kernelrelease)
size=$(stat -c %s "$out/vmlinux")
sum=$(sha256sum "$out/vmlinux" | cut -d' ' -f1)
bytes=$(echo "$sum" | sed 's/../0x&, /g' | fold -w 48 | sed 's/^/\t\t/; s/ *$//')
cat >"$out/vmlinux_generated.go" <<GO
// Code generated by build.sh; DO NOT EDIT.

package kernel

// Version is what uname -r says in the guest.
const Version = "$release"

// Source is the Debian source package that the image was built from.
const Source = "$package $version"

const vmlinuxSize = $size

// vmlinuxSHA256 is the digest of the uncompressed image.
func vmlinuxSHA256() [32]byte {
	return [32]byte{
$bytes
	}
}
GO
cat "$tree/COPYING" "$tree/LICENSES/exceptions/Linux-syscall-note" "$tree/LICENSES/preferred/GPL-2.0" >"$here/COPYING"
chmod 644 "$out/vmlinux.zst"
cp "$out/vmlinux.zst" "$out/config" "$out/SHA256SUMS" "$out/vmlinux_generated.go" "$here/"
say "vmlinux $size bytes, vmlinux.zst $(stat -c %s "$out/vmlinux.zst") bytes, sha256 $sum"
