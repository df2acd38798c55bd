#!/usr/bin/env bash
# Prints the versions of the packages in a suite's images. build.ts hashes them together with the scripts, so that a new
# kernel or Xen in Debian leads to new images. Usage: versions.sh SUITE CACHE
here="$(dirname "${BASH_SOURCE[0]}")"
source "$here/common.sh"
source "$here/suite.sh"

suite="$1" state="$2/apt/$1"
suite_apt_update "$state" "$suite" || die "cannot read the package lists of $suite"
# shellcheck disable=SC2046 # lists of words
suite_apt "$state" cache show --no-all-versions $(root_packages "$suite") $(unpacked_packages "$suite") linux-image-amd64 |
  awk '/^Package:/ { name = $2 } /^Version:/ { print name, $2 }' | sort
