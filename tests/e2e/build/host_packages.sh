#!/usr/bin/env bash
# Installs what the machine needs to build the images and to boot them; refuses one that has not the room or the memory.
# Usage: host_packages.sh CACHE
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# What an empty cache grows to, and what is still needed where all is there.
need_mb=5000
if [ -d "$1/bookworm" ] && [ -d "$1/trixie" ]; then need_mb=1500; fi
free_mb="$(df --output=avail -BM "$1" | tail -1 | tr -dc 0-9)"
[ "$free_mb" -ge "$need_mb" ] || die "$1 has $free_mb MB of room, needs $need_mb; XENBLK_E2E_CACHE names another place"
memory_mb="$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo)"
[ "$memory_mb" -ge 4500 ] || die "the machine has $memory_mb MB of memory to give, the emulated one needs 4500"

packages=(qemu-system-x86 mmdebstrap e2fsprogs cpio xz-utils kmod zstd gcc make libc6-dev debian-archive-keyring)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ "$(id -u)" -eq 0 ] || die "run as root: the dom0 roots are made with chroot"
[ "${#missing[@]}" -gt 0 ] || exit 0
command -v apt-get >/dev/null || die "needs the Debian packages ${missing[*]}, and there is no apt-get"
say "installing ${missing[*]}"
apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null
apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" >/dev/null
