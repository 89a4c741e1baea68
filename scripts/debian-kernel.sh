#!/bin/sh
# Fetches a Debian distribution kernel and prints the absolute path of its
# bzImage. Downloads nothing if it is there already.
#
#   scripts/debian-kernel.sh DIRECTORY
set -eu
mkdir -p "$1"
cd "$1"
found() { ls "$PWD"/boot/vmlinuz-*-cloud-amd64 2>/dev/null | sort -V | tail -n 1; }
if [ -z "$(found)" ]; then
	# The meta-package names the current kernel of the release.
	depends() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-.*cloud-amd64$/ {print $2; exit}'; }
	package=$(depends)
	if [ -z "$package" ]; then
		apt-get update -qq >&2
		package=$(depends)
	fi
	[ -n "$package" ] || { echo "no linux-image-*-cloud-amd64 package is offered here" >&2; exit 1; }
	echo "Downloading Debian package: $package" >&2
	apt-get download -qq "$package" >&2 2>/dev/null || { apt-get update -qq >&2; apt-get download -qq "$package" >&2; }
	dpkg-deb -x "$package"_*.deb .
	rm -rf "$package"_*.deb lib usr
fi
[ -n "$(found)" ] || { echo "the package holds no kernel" >&2; exit 1; }
found
