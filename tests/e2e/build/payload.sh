#!/usr/bin/env bash
# Packs the files that a run takes into dom0: the checkout as it is, two Debian packages of it, the program as the first
# one installs it, the bench's C reference, the job's settings.
# Usage: payload.sh DENO CACHE OUT JOB-CONF
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

deno="$1" cache="$2" out="$3" conf="$4"
top="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
tree="$(mktemp -d "$cache/payload.XXXXXX")"
trap 'rm -rf "$tree"' EXIT

mkdir "$tree/project"
(cd "$top" && git ls-files -z --cached --others --exclude-standard |
  { while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done; } |
  cpio --quiet --null -pdm "$tree/project")
mkdir "$tree/packages"
(cd "$top" && DENO_NO_UPDATE_CHECK=1 "$deno" run -A tests/e2e/build/packages.ts "$tree/packages") ||
  die "the Debian packages cannot be made"
# dom0 runs what users run: the package's program, which also starts sooner than the checkout does.
dpkg-deb -x "$tree/packages/first.deb" "$tree/installed"
mv "$tree/installed/usr/lib/xenblk" "$tree/program"
sed 's,/usr/lib/xenblk,/payload/program,g' "$tree/installed/usr/bin/xenblk" >"$tree/xenblk"
chmod 755 "$tree/xenblk"
rm -r "$tree/installed"
gcc -std=gnu11 -O2 -o "$tree/reference" "$top/bench/reference.c" -lxenstore -lxengnttab -lxenevtchn ||
  die "the C reference does not build"
cp "$conf" "$tree/job.conf"
rm -f "$out"
mke2fs -q -t ext4 -O ^has_journal -E root_owner=0:0 -d "$tree" "$out" 400M
