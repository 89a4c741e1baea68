#!/bin/sh
# Makes the images that the end-to-end tests run, from Debian's packages, as one
# OCI image layout, unless it is there already:
#
#   scripts/testimages.sh DIRECTORY
#
# DIRECTORY/layout holds debian (minimal), python and node (with a user, a
# working directory, variables, an entrypoint and a command), and whiteouts (many
# layers that change each other). DIRECTORY/NAME.tar are the root file systems
# that the first three are made of. DIRECTORY/registry is the storage of a
# docker-registry that has all four, pushed there by skopeo.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
mkdir -p "$1"
cd "$1"
[ ! -e complete ] || exit 0
rm -rf layout registry ./*.tar

# The machine's own package sources are used, whatever they are called.
sources=
for f in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list; do
	if [ -s "$f" ]; then
		sources=$f
		break
	fi
done
[ -n "$sources" ] || { echo "no package sources in /etc/apt" >&2; exit 1; }
. /etc/os-release

bootstrap() { # NAME [PACKAGES]
	echo "Making test image: $1" >&2
	mmdebstrap --quiet --mode=root --variant=minbase --format=tar \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		${2:+--include="$2"} "$VERSION_CODENAME" "$1.tar" "$sources" >mmdebstrap.log 2>&1 || {
		cat mmdebstrap.log >&2
		exit 1
	}
	rm mmdebstrap.log
}

# image NAME LAYER.tar… makes an image of archives.
image() {
	name=$1
	shift
	umoci new --image "layout:$name"
	for layer; do
		umoci raw add-layer --image "layout:$name" "$layer"
	done
}

umoci init --layout layout
bootstrap debian
image debian debian.tar
umoci config --image layout:debian --config.cmd /bin/bash
bootstrap python python3-minimal,libpython3-stdlib,python3
image python python.tar
umoci config --image layout:python --config.env LANG=C.UTF-8 --config.env PYTHONUNBUFFERED=1 \
	--config.workingdir /srv --config.cmd python3
bootstrap node nodejs
image node node.tar
umoci config --image layout:node --config.user nobody:nogroup --config.workingdir /tmp \
	--config.env NODE_ENV=production --config.entrypoint node --config.cmd --version \
	--config.label org.example.test=yes

# whiteouts: every way in which one layer can change another.
echo "Making test image: whiteouts" >&2
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
layer() { # NAME: packs the tree, and empties it
	tar --xattrs --xattrs-include='*' --format=posix --sparse --sort=name -C "$tree" -cf "$1.layer" .
	rm -rf "$tree"
	mkdir -m 755 "$tree"
}
mkdir -p "$tree/keep" "$tree/gone/deep" "$tree/opaque/sub" "$tree/dir-to-file/x" "$tree/links" "$tree/sticky"
chmod 755 "$tree"
echo one >"$tree/keep/a"
echo two >"$tree/keep/b"
echo gone >"$tree/gone/deep/file"
echo lower >"$tree/opaque/lower"
echo lower >"$tree/opaque/sub/lower"
echo x >"$tree/dir-to-file/x/y"
echo f >"$tree/file-to-dir"
echo linked >"$tree/links/first"
ln "$tree/links/first" "$tree/links/second"
ln -s ../keep/a "$tree/links/relative"
ln -s /keep "$tree/links/absolute"
ln -s nowhere "$tree/links/dangling"
chmod 1777 "$tree/sticky"
install -m 4755 /bin/true "$tree/setuid"
install -m 2755 /bin/true "$tree/setgid"
install -m 755 /bin/true "$tree/capable"
setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 "$tree/capable"
setfattr -n user.note -v 'a value' "$tree/keep/a"
setfattr -n trusted.note -v 0x00ff00 "$tree/keep/b"
setfacl -m u:1000:rw,g:100:r "$tree/keep/b"
setfacl -d -m u:1000:rwx "$tree/sticky"
mknod "$tree/char" c 1 3
mknod "$tree/block" b 7 200
mkfifo "$tree/fifo"
long=$(printf 'n%.0s' $(seq 255))
echo long >"$tree/$long"
mkdir -p "$tree/$(printf 'd%.0s' $(seq 200))/$(printf 'e%.0s' $(seq 200))"
echo latin >"$tree/$(printf 'caf\351')"
echo spaces >"$tree/ name with  spaces
and a newline"
truncate -s 64M "$tree/sparse"
printf middle | dd of="$tree/sparse" bs=1 seek=40000000 conv=notrunc status=none
: >"$tree/empty"
mkdir "$tree/many"
i=0
while [ $i -lt 3000 ]; do
	: >"$tree/many/file-$i"
	i=$((i + 1))
done
chown 70000:80000 "$tree/keep/a"
touch -h -d '2001-02-03 04:05:06.789012345 UTC' "$tree/keep/a" "$tree/links/relative"
touch -d '1960-01-01 00:00:00 UTC' "$tree/empty"
layer 1

mkdir -p "$tree/keep" "$tree/opaque" "$tree/links" "$tree/file-to-dir/inside"
: >"$tree/.wh.gone"
: >"$tree/keep/.wh.b"
: >"$tree/opaque/.wh..wh..opq"
echo upper >"$tree/opaque/upper"
echo file >"$tree/dir-to-file"
echo second >"$tree/links/first"
chmod 700 "$tree/keep"
layer 2

mkdir -p "$tree/gone/again" "$tree/links"
echo back >"$tree/gone/again/file"
: >"$tree/links/.wh.relative"
: >"$tree/.wh.nothing-like-this"
echo three >"$tree/links/third"
ln "$tree/links/third" "$tree/links/fourth"
layer 3

image whiteouts 1.layer 2.layer 3.layer
rm ./*.layer

echo "Pushing test images" >&2
cat >registry.yml <<END
version: 0.1
storage: {filesystem: {rootdirectory: $PWD/registry}}
http: {addr: "127.0.0.1:0"}
END
docker-registry serve registry.yml >registry.log 2>&1 &
server=$!
trap 'kill $server; rm -rf "$tree"' EXIT
i=0
until addr=$(grep -o 'listening on 127.0.0.1:[0-9]*' registry.log); do
	i=$((i + 1))
	[ $i -lt 100 ] || { cat registry.log >&2; exit 1; }
	sleep 0.1
done
for name in debian python node whiteouts; do
	skopeo copy --quiet --dest-tls-verify=false "oci:layout:$name" "docker://${addr#listening on }/$name"
done
rm registry.yml registry.log
: >complete
