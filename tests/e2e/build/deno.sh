#!/usr/bin/env bash
# Fetches Deno's program for dom0 with npm. Usage: deno.sh VERSION OUT
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
say "deno: fetching $1"
(cd "$work" && npm pack --silent "@deno/linux-x64-glibc@$1" >/dev/null)
tar -xzf "$work"/*.tgz -C "$work"
install -m 755 "$work/package/deno" "$2"
