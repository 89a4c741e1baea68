#!/bin/sh
# Fetches the distribution kernel of a Debian release, by default this machine's,
# and prints the absolute path of its bzImage. Downloads nothing if it is there
# already. The package comes from the mirror that this machine's apt uses, with
# indexes of its own: what apt knows here stays as it is.
#
#   scripts/debian-kernel.sh DIRECTORY [RELEASE]
set -eu
. /etc/os-release
release=${2:-$VERSION_CODENAME}
mkdir -p "$1/$release"
cd "$1/$release"
found() { ls "$PWD"/boot/vmlinuz-*-cloud-amd64 2>/dev/null | sort -V | tail -n 1; }
if [ -z "$(found)" ]; then
	mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
		awk '$1 == "URIs:" {print $2; exit} $1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) {print $i; exit}}')
	[ -n "$mirror" ] || { echo "debian-kernel: apt has no mirror here: add one to /etc/apt/sources.list.d" >&2; exit 1; }
	rm -rf apt
	mkdir -p apt/etc apt/state/lists/partial apt/cache/archives/partial
	printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
		"$mirror" "$release" >apt/etc/debian.sources
	printf 'Dir::Etc::SourceList "/dev/null";\nDir::Etc::SourceParts "%s";\nDir::State "%s";\nDir::Cache "%s";\nAPT::Sandbox::User "root";\n' \
		"$PWD/apt/etc" "$PWD/apt/state" "$PWD/apt/cache" >apt/apt.conf
	export APT_CONFIG="$PWD/apt/apt.conf"
	apt-get update -qq >&2
	# The meta-package names the current kernel of the release.
	package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-.*cloud-amd64$/ {print $2; exit}')
	[ -n "$package" ] || { echo "debian-kernel: $release has no linux-image-*-cloud-amd64 package" >&2; exit 1; }
	echo "Downloading Debian package: $package" >&2
	apt-get download -qq "$package" >&2
	dpkg-deb -x "$package"_*.deb .
	rm -rf "$package"_*.deb lib usr apt
fi
[ -n "$(found)" ] || { echo "debian-kernel: the package holds no kernel" >&2; exit 1; }
found
