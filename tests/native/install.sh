#!/bin/sh
# Installs the Debian packages that tests/native needs. It starts no service: it does not install the Xen packages with
# daemons, but unpacks them into tests/native/build. Needs root (or set SUDO=sudo) and an apt index.
set -eu

cd "$(dirname "$0")"
SUDO=${SUDO-}
APT="apt-get -o DPkg::Lock::Timeout=300 -q"

$SUDO env DEBIAN_FRONTEND=noninteractive $APT install -y --no-install-recommends \
    gcc libc6-dev libxen-dev libxenstore4 libxengnttab1 libxenevtchn1 xenstore-utils qemu-utils qemu-system-common nbdkit openssl mount

# xenstored must have the same version as the libxenctrl that libxen-dev depends on.
version=$(dpkg-query -W -f '${Package}\n' 'libxenmisc4*' | sed -n 's/^libxenmisc\(4\.[0-9]*\).*/\1/p' | head -n 1)
if ls /usr/lib/xen-"$version"/bin/xenstored build/xen-utils/usr/lib/xen-"$version"/bin/xenstored 2>/dev/null; then
    exit 0
fi
mkdir -p build
folder=$(mktemp -d build/unfinished-XXXXXX)
trap 'rm -rf "$folder"' EXIT
(cd "$folder" && $APT download "xen-utils-$version" && dpkg-deb -x xen-utils-*.deb unpacked)
rm -rf build/xen-utils
mv "$folder/unpacked" build/xen-utils
ls build/xen-utils/usr/lib/xen-"$version"/bin/xenstored
