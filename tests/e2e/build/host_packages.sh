#!/usr/bin/env bash
# Installs the packages that the machine needs to build and boot the images. Fails if disk space or memory is too small.
# Usage: host_packages.sh CACHE
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The space that an empty cache needs, and the space that a complete one still needs.
need_mb=5000
if [ -d "$1/bookworm" ] && [ -d "$1/trixie" ]; then need_mb=1500; fi
free_mb="$(df --output=avail -BM "$1" | tail -1 | tr -dc 0-9)"
[ "$free_mb" -ge "$need_mb" ] || die "$1 has $free_mb MB of free space, needs $need_mb; set XENBLK_E2E_CACHE to another folder"
memory_mb="$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo)"
[ "$memory_mb" -ge 4500 ] || die "$memory_mb MB of memory are available, but the emulated machine needs 4500 MB"

packages=(qemu-system-x86 mmdebstrap e2fsprogs cpio xz-utils kmod zstd gcc make libc6-dev libxen-dev debian-archive-keyring)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ "$(id -u)" -eq 0 ] || die "run as root: the dom0 roots are made with chroot"
[ "${#missing[@]}" -gt 0 ] || exit 0
command -v apt-get >/dev/null || die "the Debian packages ${missing[*]} are missing, and so is apt-get to install them"
say "installing ${missing[*]}"
apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null
apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" >/dev/null
