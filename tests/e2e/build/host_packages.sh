#!/usr/bin/env bash
# Installs what the machine needs to build the images and to boot them. Does nothing where all is there.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

packages=(qemu-system-x86 mmdebstrap e2fsprogs cpio xz-utils kmod zstd gcc make libc6-dev debian-archive-keyring)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0
command -v apt-get >/dev/null || die "needs the Debian packages ${missing[*]}, and there is no apt-get"
[ "$(id -u)" -eq 0 ] || die "run as root, or install: apt-get install ${missing[*]}"
say "installing ${missing[*]}"
apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null
apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" >/dev/null
