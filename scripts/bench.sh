#!/bin/sh
# Measures side by side: what needs VMs on good KVM or in the rig, the rest
# here. Peers that are missing are skipped, saying so.
#
#   scripts/bench.sh [-part pull,ls,exits,boot,exec,phases,many,idle,images,read,memory] [BENCH FLAGS…]
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
# Small: it is also the init of a peer's guest.
go build -trimpath -ldflags='-s -w' -o bin/bench ./bench
gcc -O2 -static -o bin/exitloop bench/testdata/exitloop.c
# The peer comes from the module that the differential tests use.
go build -trimpath -o bin/gokvm github.com/bobuhiro11/gokvm 2>/dev/null && gokvm="-gokvm bin/gokvm" || gokvm=
scripts/testimages.sh bin/testimages || echo "bench: the test images were not made" >&2

# The image with the peers of a command's round trip: the test images' Debian,
# with a bash, dropbear and openssh, as an archive. Made once.
ssh_image() (
	[ ! -e bin/benchimages/ssh.oci.tar ] || exit 0
	echo "Making the image with dropbear and openssh" >&2
	. /etc/os-release
	for sources in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list; do
		[ ! -s "$sources" ] || break
	done
	rm -rf bin/benchimages
	mkdir -p bin/benchimages
	PATH="$PATH:/usr/sbin:/sbin" mmdebstrap --quiet --mode=root --variant=minbase --format=tar \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--include=dropbear-bin,openssh-server,openssh-client "$VERSION_CODENAME" bin/benchimages/ssh.tar "$sources" || exit 1
	cd bin/benchimages
	umoci init --layout layout && umoci new --image layout:ssh && umoci raw add-layer --image layout:ssh ssh.tar &&
		tar -C layout -cf unfinished.tar . && rm -rf layout ssh.tar && mv unfinished.tar ssh.oci.tar
)
ssh_image || echo "bench: the image with ssh was not made" >&2
exec bin/bench $gokvm "$@"
