#!/usr/bin/env bash
# Copies the files of a boot's output disk without mounting it. Usage: results.sh OUTPUT FOLDER
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

rm -rf "$2"
mkdir -p "$2"
# An interrupted boot leaves a dirty file system.
e2fsck -fy "$1" >/dev/null 2>&1 || true
debugfs -R "rdump / $2" "$1" >/dev/null 2>&1
rm -rf "$2/lost+found"
