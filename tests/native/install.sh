#!/bin/sh
# Installs the Debian packages that the tests of native parts, metrics and packages need. It starts no service: packages
# with daemons (Xen's, sshd, tgtd, Prometheus) are not installed but unpacked into tests/native/build. Needs root (or set
# SUDO=sudo) and an apt index.
set -eu

cd "$(dirname "$0")"
SUDO=${SUDO-}
APT="apt-get -o DPkg::Lock::Timeout=300 -q"

# Chromium, for the status page, is 96 MB to download and 306 MB installed, with what it needs.
$SUDO env DEBIAN_FRONTEND=noninteractive $APT install -y --no-install-recommends \
    gcc libc6-dev libxen-dev libxenstore4 libxengnttab1 libxenevtchn1 xenstore-utils qemu-utils qemu-system-common nbdkit openssl mount \
    chromium-headless-shell qemu-block-extra openssh-client libwrap0 libpam0g libaudit1 libibverbs1 librdmacm1 groff-base mandoc mmdebstrap debian-archive-keyring \
    systemd zsh fish \
    curl socat libnbd-bin

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

# promtool, which checks metrics and alerts: 19 MB to download, 94 MB unpacked.
[ -x /usr/bin/promtool ] || [ -x build/prometheus/usr/bin/promtool ] || unpack prometheus prometheus

# xenstored must have the same version as the libxenctrl that libxen-dev depends on.
version=$(dpkg-query -W -f '${Package}\n' 'libxenmisc4*' | sed -n 's/^libxenmisc\(4\.[0-9]*\).*/\1/p' | head -n 1)
xenstored=usr/lib/xen-$version/bin/xenstored
[ -x "/$xenstored" ] || [ -x "build/xen-utils/$xenstored" ] || unpack xen-utils "xen-utils-$version"
