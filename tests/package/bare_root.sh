#!/usr/bin/env bash
# Makes a bare Debian root with man from the mirror that this machine's apt uses, and keeps the lists of its packages. A
# root of today is used as it is; an older one is made again, since the mirror may no longer have what its lists name.
# Usage: bare_root.sh SUITE ROOT
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../e2e/build/common.sh"

suite="$1" root="$2"
if [ -d "$root" ] && [ -n "$(find "$root" -maxdepth 0 -mmin -720)" ]; then exit 0; fi
mkdir -p "$(dirname "$root")"
rm -rf "$root" "$root.new"
sources_of "$suite" >"$root.list"
say "$suite: bootstrapping a bare root"
mmdebstrap --quiet --mode=root --variant=minbase --include=man-db --skip=cleanup/apt/lists,cleanup/apt/cache \
  --aptopt='Acquire::Languages "none"' --aptopt='APT::Sandbox::User "root"' \
  "$suite" "$root.new" "$root.list" >"$root.log" 2>&1 || { tail -30 "$root.log" >&2; die "$suite: no root"; }
rm -f "$root.new"/var/cache/apt/archives/*.deb
touch "$root.new"
mv "$root.new" "$root"
