#!/usr/bin/env bash
# Makes the empty disks of a boot: one for results, one for disk images. Usage: disks.sh OUTPUT SCRATCH
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

rm -f "$1" "$2"
truncate -s 512M "$1"
truncate -s 6G "$2"
mke2fs -q -t ext4 -O ^has_journal "$1"
mke2fs -q -t ext4 "$2"
