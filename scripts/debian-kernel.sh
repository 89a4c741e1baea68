#!/bin/sh
# Fetches a Debian distribution kernel and prints the path of its bzImage.
# Downloads nothing if it is there already.
#
#   scripts/debian-kernel.sh DIRECTORY
set -eu
dir=$1
found() { ls "$dir"/boot/vmlinuz-*-cloud-amd64 2>/dev/null | sort -V | tail -n 1; }
if [ -z "$(found)" ]; then
	mkdir -p "$dir"
	cd "$dir"
	# The meta-package names the current kernel of the release.
	depends() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-.*cloud-amd64$/ {print $2; exit}'; }
	package=$(depends)
	if [ -z "$package" ]; then
		apt-get update -qq >&2
		package=$(depends)
	fi
	[ -n "$package" ] || { echo "no linux-image-*-cloud-amd64 package is offered here" >&2; exit 1; }
	echo "Downloading Debian package: $package" >&2
	apt-get download -qq "$package" >&2 || { apt-get update -qq >&2; apt-get download -qq "$package" >&2; }
	dpkg-deb -x "$package"_*.deb .
	rm -rf "$package"_*.deb lib usr
fi
found
