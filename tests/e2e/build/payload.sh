#!/usr/bin/env bash
# Packs the files that a run takes into dom0: the checkout as it is, Deno's cache of npm dependencies, two Debian packages
# of the checkout, the bench's C reference, the job's settings.
# Usage: payload.sh CACHE OUT JOB-CONF
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cache="$1" out="$2" conf="$3"
top="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
tree="$(mktemp -d "$cache/payload.XXXXXX")"
trap 'rm -rf "$tree"' EXIT

mkdir "$tree/project"
(cd "$top" && git ls-files -z --cached --others --exclude-standard |
  { while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done; } |
  cpio --quiet --null -pdm "$tree/project")
# The same Deno as in dom0 fills the cache, so that it finds everything there without a network.
(cd "$tree/project" && DENO_DIR="$tree/deno-dir" DENO_NO_UPDATE_CHECK=1 "$cache/deno" install --quiet --frozen) ||
  die "the npm dependencies of deno.json do not install"
mkdir "$tree/packages"
(cd "$top" && DENO_NO_UPDATE_CHECK=1 "$cache/deno" run -A tests/e2e/build/packages.ts "$tree/packages") ||
  die "the Debian packages cannot be made"
gcc -std=gnu11 -O2 -o "$tree/reference" "$top/bench/reference.c" -lxenstore -lxengnttab -lxenevtchn ||
  die "the C reference does not build"
cp "$conf" "$tree/job.conf"
rm -f "$out"
mke2fs -q -t ext4 -O ^has_journal -E root_owner=0:0 -d "$tree" "$out" 400M
