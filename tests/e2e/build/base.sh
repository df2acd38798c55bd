#!/usr/bin/env bash
# Makes the base of a suite's images from Debian packages: OUT/root, a bootstrapped dom0 root, and OUT/unpacked, the
# files of the hypervisor and the kernel. Usage: base.sh SUITE CACHE OUT
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/common.sh"
source "$here/suite.sh"

suite="$1" cache="$2" out="$3"
state="$cache/apt/$suite"
work="$out.new"
rm -rf "$out" "$work"
mkdir -p "$work"

unpack_packages() {
  local kernel
  [ -d "$state/lists" ] || suite_apt_update "$state" "$suite"
  kernel="$(suite_apt "$state" cache depends linux-image-amd64 | awk '$1 == "Depends:" && /linux-image-/ { print $2; exit }')"
  say "$suite: unpacking $kernel and $(unpacked_packages "$suite")"
  # shellcheck disable=SC2046 # a list of words
  (cd "$work" && suite_apt "$state" get download "$kernel" $(unpacked_packages "$suite") >/dev/null)
  for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$work/unpacked"; done
  rm "$work"/*.deb
  echo "${kernel#linux-image-}" >"$work/kernel-version"
}

bootstrap() {
  say "$suite: bootstrapping the dom0 root"
  sources_of "$suite" >"$work/sources.list"
  mmdebstrap --quiet --mode=root --variant=minbase --include="$(root_packages "$suite" | tr ' ' ,)" \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/i18n/*' \
    "$suite" "$work/root" "$work/sources.list" >"$work/bootstrap.log" 2>&1 ||
    { tail -30 "$work/bootstrap.log" >&2; die "$suite: no root"; }
  dpkg-query --admindir="$work/root/var/lib/dpkg" -W >"$work/packages.txt"
}

unpack_packages
bootstrap
mv "$work" "$out"
