#!/bin/sh
# Installs the Debian packages that tests/native and tests/package need. It starts no service: it does not install the
# packages with daemons (Xen's, sshd, tgtd), but unpacks them into tests/native/build. Needs root (or set SUDO=sudo) and
# an apt index.
set -eu

cd "$(dirname "$0")"
SUDO=${SUDO-}
APT="apt-get -o DPkg::Lock::Timeout=300 -q"

$SUDO env DEBIAN_FRONTEND=noninteractive $APT install -y --no-install-recommends \
    gcc libc6-dev libxen-dev libxenstore4 libxengnttab1 libxenevtchn1 xenstore-utils qemu-utils qemu-system-common nbdkit openssl mount \
    qemu-block-extra openssh-client libwrap0 libpam0g libaudit1 libibverbs1 librdmacm1 groff-base mandoc

# unpack NAME PACKAGE...: into build/NAME, all or nothing.
mkdir -p build
folder=
trap 'rm -rf "$folder"' EXIT
unpack() {
    name=$1; shift
    folder=$(mktemp -d build/unfinished-XXXXXX)
    (cd "$folder" && $APT download "$@" && for file in *.deb; do dpkg-deb -x "$file" unpacked; done)
    rm -rf "build/$name"
    mv "$folder/unpacked" "build/$name"
    rm -rf "$folder"
}

# The servers of remote images, where they are not installed.
for server in openssh-server/sshd tgt/tgtd; do
    package=${server%/*} program=${server#*/}
    [ -x "/usr/sbin/$program" ] || [ -x "build/$package/usr/sbin/$program" ] || unpack "$package" "$package"
done

# xenstored must have the same version as the libxenctrl that libxen-dev depends on.
version=$(dpkg-query -W -f '${Package}\n' 'libxenmisc4*' | sed -n 's/^libxenmisc\(4\.[0-9]*\).*/\1/p' | head -n 1)
xenstored=usr/lib/xen-$version/bin/xenstored
[ -x "/$xenstored" ] || [ -x "build/xen-utils/$xenstored" ] || unpack xen-utils "xen-utils-$version"
