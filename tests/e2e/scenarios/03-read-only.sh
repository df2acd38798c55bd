# A read-only disk and a CD-ROM: the guest sees them as read-only, its writes fail, and the images do not change.
# suites: trixie
# short: none
# timeout: 500 s
image disk 16M
disk="$image"
head -c 16M /dev/urandom >"$disk"
image cdrom 8M
cdrom="$image"
head -c 8M /dev/urandom >"$cdrom"
before="$(sha256sum "$disk" "$cdrom")"
guest_start alpha
id="$(domid alpha)"
attach_start disk alpha "$disk" xvdb --read-only
disk_pid="$background_pid"
attach_start cdrom alpha "$cdrom" xvdc --cdrom
cdrom_pid="$background_pid"
equal "$(store "/local/domain/0/backend/vbd3/$id/51728/info")" 4 "info of the disk (READONLY)"
equal "$(store "/local/domain/0/backend/vbd3/$id/51744/info")" 7 "info of the CD-ROM (CDROM, REMOVABLE, READONLY)"
equal "$(store "/local/domain/0/backend/vbd3/$id/51744/device-type")" cdrom "device-type"

# The guest's kernel itself refuses writes to a read-only disk and logs these words.
allow_words 'Trying to write to read-only block-device'
guest_run alpha 'test "$(cat /sys/block/xvdb/ro) $(cat /sys/block/xvdc/ro)" = "1 1"'
for device in xvdb xvdc; do
  guest_fails alpha "dd if=/dev/zero of=/dev/$device bs=4k count=16 conv=fsync"
  guest_fails alpha "mount -o rw -t ext4 /dev/$device /mnt"
done
guest_run alpha 'sha256sum /dev/xvdb /dev/xvdc >/tmp/sums; cut -d" " -f1 /tmp/sums'
equal "$(echo "$guest_answer" | paste -sd' ')" "$(echo "$before" | cut -d' ' -f1 | paste -sd' ')" "what the guest reads"
kill -TERM "$disk_pid" "$cdrom_pid"
process_ends "$disk_pid" 30 0
process_ends "$cdrom_pid" 30 0
equal "$(sha256sum "$disk" "$cdrom")" "$before" "the images"
guest_stop alpha
