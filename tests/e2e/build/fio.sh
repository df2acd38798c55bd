#!/usr/bin/env bash
# Builds fio as one static program from Debian's source package, so that guests need no library for it.
# Usage: fio.sh CACHE OUT
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cache="$1" out="$2"
suite="$(. /etc/os-release && echo "$VERSION_CODENAME")"
work="$(mktemp -d "$cache/fio.XXXXXX")"
trap 'rm -rf "$work"' EXIT

say "fio: fetching the source of $suite"
suite_apt_update "$work/apt" "$suite" deb-src
(cd "$work" && suite_apt "$work/apt" get source --download-only --only-source fio >/dev/null)
mkdir "$work/src"
tar -xf "$(find "$work" -maxdepth 1 -name "fio_*.orig.tar.*" ! -name "*.asc")" -C "$work/src" --strip-components=1
say "fio: building"
cd "$work/src"
./configure --build-static --disable-native --disable-numa --disable-rdma --disable-rados --disable-rbd --disable-http \
  --disable-gfapi --disable-pmem --disable-libzbc --disable-libnfs --disable-xnvme --disable-shm >configure.log 2>&1 ||
  { tail -20 configure.log >&2; die "fio does not configure"; }
nice make -j"$(nproc)" fio >make.log 2>&1 || { tail -20 make.log >&2; die "fio does not build"; }
if ldd fio 2>/dev/null | grep -q '=>'; then die "fio was not linked statically"; fi
strip -o "$out" fio
