# Shared by the build scripts: messages, and a separate apt for any Debian suite, which uses the mirror of this
# machine's apt. Sourced, never run.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

say() { printf 'e2e build: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Prints the addresses of the Debian archive and of its security archive, as in this machine's apt; the second may be
# empty.
mirror_of() {
  apt-get indextargets --format '$(LABEL)|$(SITE)' 'Created-By: Packages' | sort -u |
    awk -F'|' -v label="$1" '$1 == label { print $2; exit }'
}

# The lines of a sources.list for a suite: sources_of SUITE [deb|deb-src]
sources_of() {
  local suite="$1" type="${2:-deb}" main security
  local keys=/usr/share/keyrings/debian-archive-keyring.gpg
  main="$(mirror_of Debian)"
  security="$(mirror_of Debian-Security)"
  [ -n "$main" ] || die "this machine's apt names no Debian archive: run apt-get update first"
  echo "$type [signed-by=$keys] $main $suite main"
  if [ -n "$security" ]; then echo "$type [signed-by=$keys] $security $suite-security main"; fi
}

# An apt for a suite, with its state in a folder of the cache: suite_apt FOLDER get|cache ARGS...
suite_apt() {
  local state="$1" tool="$2"
  shift 2
  "apt-$tool" -q -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state/cache" -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User=root "$@"
}

# Creates or updates such an apt: suite_apt_update FOLDER SUITE [deb-src]
suite_apt_update() {
  local state="$1" suite="$2"
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  touch "$state/status"
  sources_of "$suite" "${3:-deb}" >"$state/sources.list"
  suite_apt "$state" get update >"$state/update.log" 2>&1 || { cat "$state/update.log" >&2; return 1; }
}
