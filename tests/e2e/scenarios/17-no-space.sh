# A sparse image on a file system that fills up. Writes of the guest that find no space fail; earlier data is still
# there, and reads work. Once there is space again, writes work too, without a new attach.
# suites: trixie
# short: none
# timeout: 500 s
image small 48M
small="$image"
mkfs.ext4 -q -O ^has_journal -m 0 "$small"
mkdir -p /run/e2e/small
mount -o loop "$small" /run/e2e/small
disk=/run/e2e/small/disk
truncate -s 64M "$disk"
head -c 24M /dev/zero >/run/e2e/small/ballast

guest_start alpha
id="$(domid alpha)"
attach_start attach alpha "$disk" xvdb
attach_pid="$background_pid"
# The guest's kernel reports which writes failed.
allow_words 'I/O error,? (on )?dev xvdb\b'
guest_run alpha 'dd if=/dev/urandom of=/tmp/pattern bs=64k count=64 2>/dev/null && dd if=/tmp/pattern of=/dev/xvdb bs=64k oflag=direct conv=fsync'
guest_fails alpha 'dd if=/dev/zero of=/dev/xvdb bs=64k seek=64 count=900 oflag=direct' 120
guest_run alpha 'echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/xvdb bs=64k count=64 2>/dev/null | cmp - /tmp/pattern'
# Blocks that are already allocated can be overwritten.
guest_run alpha 'dd if=/tmp/pattern of=/dev/xvdb bs=64k oflag=direct conv=fsync'

rm /run/e2e/small/ballast
guest_run alpha "dd if=/dev/zero of=/dev/xvdb bs=64k seek=64 count=64 oflag=direct && $(fio_verify xvdb)" 120
guest_run alpha 'dd if=/dev/zero of=/dev/xvdb bs=64k count=1 oflag=direct conv=fsync'
equal "$(backend_state "$id" xvdb)" 4 "backend's state"
kill -TERM "$attach_pid"
process_ends "$attach_pid" 30 0
guest_stop alpha
umount /run/e2e/small
