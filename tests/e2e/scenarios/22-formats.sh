# Images that QEMU's storage daemon opens. A qcow2, an NBD export and (with XENBLK_E2E_FULL=1) a vmdk and a luks image
# each get the same writes as a raw image (dm-mirror in the guest), with the daemon killed under load; each is the same as
# the raw one afterwards.
# `attach --create` makes a qcow2 that shrinks by fstrim. A guest boots through GRUB from a qcow2 overlay that xl names.
# No daemon is left after a detach.
# suites: trixie
# timeout: 1200 s
size=32M sectors=65536
formats="qcow2 nbd"
[ "${E2E_FULL:-}" != 1 ] || formats="qcow2 vmdk luks nbd"
local_formats="${formats% nbd}"
secret="$images/$E2E_NAME-secret" socket=/run/e2e/nbd.sock
(umask 077 && printf 'open sesame' >"$secret")
export DM_DISABLE_UDEV=1

file_of() { echo "$images/$E2E_NAME-$1"; }
# The daemons of a guest, or of all.
daemons() { pgrep -f "^[^ ]*qemu-storage-daemon .*daemons/${1:+$1[./]}" || true; }
# The one that the disks of a guest share; a disk in a remote store has its own.
shared_daemon() { pgrep -f "^[^ ]*qemu-storage-daemon .*daemons/$1/" || true; }
no_daemons() { [ -z "$(daemons "${1:-}")" ]; }
kib() { du -k "$1" | cut -f1; }
# A killed daemon may leave clusters that nothing refers to (status 3), but nothing wrong.
sound() {
  local status=0
  qemu-img check -f "$1" "$2" || status=$?
  [ "$status" = 0 ] || [ "$status" = 3 ] || fail "qemu-img check of $2: status $status"
}

# ---- formats and their twins

guest_create alpha
for format in $formats; do image "$format-twin" "$size"; done
xenblk image create "qcow2:$(file_of qcow2)" "$size"
rm -f "$(file_of vmdk)" "$(file_of luks)" "$(file_of nbd)"
case "$formats" in *vmdk*) qemu-img create -q -f vmdk "$(file_of vmdk)" "$size" ;; esac
qemu-img create -q -f qcow2 "$(file_of nbd)" "$size"
case "$formats" in *luks*)
  # What was never written reads as noise from a new luks image, so it is made from its twin.
  qemu-img convert -f raw -O luks --object "secret,id=key,file=$secret" -o key-secret=key,iter-time=10 \
    "$(file_of luks-twin)" "$(file_of luks)"
  ;;
esac
background nbd qemu-nbd --persistent --cache=writeback --discard=unmap -f qcow2 -k "$socket" -x disk "$(file_of nbd)"
nbd_pid="$background_pid"
serve_start serve --allow-image "nbd+unix:///disk?socket=$socket" --allow-image "$secret"
serve_pid="$background_pid"
guest_ready alpha
id="$(domid alpha)"
declare -A params=(
  [qcow2]="qcow2:$(file_of qcow2)"
  [vmdk]="vmdk:$(file_of vmdk)"
  [luks]="format=luks,passphrase-file=$secret,target=$(file_of luks)"
  [nbd]="nbd+unix:///disk?socket=$socket"
)
letters=bcdefghi disks=""
guest_run alpha 'modprobe dm-mirror'
for format in $formats; do
  disk="xvd${letters:0:1}" twin="xvd${letters:1:1}" letters="${letters:2}"
  nodes_write alpha "${params[$format]}" "$disk"
  nodes_write alpha "$(file_of "$format-twin")" "$twin"
  disks="$disks $disk $twin"
  mirrors="${mirrors:-} $format,$disk,$twin"
done
for disk in $disks; do wait_for 60 "$disk" both_connected "$id" "$disk"; done
equal "$(shared_daemon "$id" | wc -l) $(daemons "$id" | wc -l)" '1 2' "storage daemons of the guest: shared, all"
for mirror in $mirrors; do
  IFS=, read -r format disk twin <<<"$mirror"
  table="0 $sectors mirror core 2 1024 nosync 2 /dev/$disk 0 /dev/$twin 0"
  guest_run alpha "export DM_DISABLE_UDEV=1; echo '$table' | dmsetup create $format"
done

# The daemon that all but one share is killed while one is written to and another is read.
probe_starts alpha xvdd
load_starts alpha dm-0
is_written() { [ "$(kib "$(file_of qcow2)")" -gt 3000 ]; }
wait_for 30 "the load to write" is_written
kill -9 "$(shared_daemon "$id")"
served_again() { [ "$(grep -c 'served again after' "$E2E_OUT/serve.err")" -ge "$(wc -w <<<"$local_formats")" ]; }
wait_for 60 "the disks to be served again" served_again
replayed="$(sed -n 's/.*-qcow2: wrote \([0-9]*\) operations.*/\1/p' "$E2E_OUT/serve.err" | tail -1)"
equal "$(daemons "$id" | wc -l)" 2 "storage daemons after the kill"
sleep 3
load_ends 180
probe_ends 1
pause="$pause_worst"

noise() { echo "dd if=/dev/urandom of=/mnt/noise bs=1M count=$1 2>/dev/null"; }
# Makes a file system on a mirror, and reads back what was copied to it.
files() {
  echo "mkfs.ext4 -q -E nodiscard /dev/mapper/$1 && mount /dev/mapper/$1 /mnt && cp /usr/bin/fio /bin/busybox /mnt/ &&" \
    "$(noise 3) && sum=\$(cat /mnt/fio /mnt/busybox /mnt/noise | sha256sum) && umount /mnt &&" \
    "e2fsck -fn /dev/mapper/$1 && mount -o ro /dev/mapper/$1 /mnt && echo 3 >/proc/sys/vm/drop_caches &&" \
    "[ \"\$(cat /mnt/fio /mnt/busybox /mnt/noise | sha256sum)\" = \"\$sum\" ] && umount /mnt"
}
number=0
for format in $formats; do
  guest_run alpha "$(fio_verify "dm-$number" --size=6M)" 120
  guest_run alpha "$(files "$format")" 120
  number=$((number + 1))
done
guest_run alpha 'dmsetup status'
equal "$(grep -c ' AA ' <<<"$guest_answer")" "$(wc -w <<<"$formats")" "mirrors that had no error"
guest_run alpha 'dmsetup remove_all'

for disk in $disks; do
  backend="/local/domain/0/backend/vbd3/$id/$(vdev_number "$disk")"
  xenstore-write "$backend/online" 0 "$backend/state" 5
done
for disk in $disks; do wait_for 60 "$disk to be closed" backend_state_is "$id" "$disk" 6; done
for disk in $disks; do nodes_remove "$id" "$disk"; done
wait_for 30 "the storage daemon to end" no_daemons "$id"
kill "$nbd_pid"
process_ends "$nbd_pid" 30 0
sound qcow2 "$(file_of qcow2)"
sound qcow2 "$(file_of nbd)"
qemu-img compare -f qcow2 -F raw "$(file_of qcow2)" "$(file_of qcow2-twin)"
qemu-img compare -f qcow2 -F raw "$(file_of nbd)" "$(file_of nbd-twin)"
case "$formats" in *vmdk*)
  sound vmdk "$(file_of vmdk)"
  qemu-img compare -f vmdk -F raw "$(file_of vmdk)" "$(file_of vmdk-twin)"
  ;;
esac
case "$formats" in *luks*)
  qemu-img compare --object "secret,id=key,file=$secret" --image-opts \
    "driver=luks,key-secret=key,file.filename=$(file_of luks)" "driver=raw,file.filename=$(file_of luks-twin)"
  ;;
esac

# ---- discards shrink a qcow2

rm -f "$(file_of trim)"
attach_start trim alpha "qcow2:$(file_of trim)" xvdb --create 64M
attach_pid="$background_pid"
guest_run alpha "mkfs.ext4 -q /dev/xvdb && mount /dev/xvdb /mnt && cp /usr/bin/fio /mnt/ && $(noise 40) && sync" 120
full="$(kib "$(file_of trim)")"
[ "$full" -ge 40960 ] || fail "the qcow2 has only $full KiB"
guest_run alpha 'rm /mnt/noise && sync && fstrim -v /mnt' 120
shrunk() { [ "$(kib "$(file_of trim)")" -lt $((full - 36000)) ]; }
wait_for 10 "the qcow2 to shrink" shrunk
trimmed="$(kib "$(file_of trim)")"
guest_run alpha 'echo 3 >/proc/sys/vm/drop_caches; cmp /usr/bin/fio /mnt/fio && umount /mnt && e2fsck -fn /dev/xvdb'
xenblk detach alpha xvdb
process_ends "$attach_pid" 30 0
no_daemons || fail "a storage daemon is left after the detach: $(daemons)"
sound qcow2 "$(file_of trim)"
guest_stop alpha

# ---- a guest boots from a qcow2

tree="$(file_of tree)"
mkdir -p "$tree/boot/grub"
cat >"$tree/boot/grub/grub.cfg" <<MENU
set timeout=0
menuentry guest {
  linux /boot/vmlinux.gz console=hvc0 mitigations=off nokaslr no_timer_check loglevel=7 panic=1 e2e.modules=xen-blkfront,ext4
  initrd /boot/guest.cpio.gz
}
MENU
cp /boot/vmlinux.gz /boot/guest.cpio.gz "$tree/boot/"
image raw 64M
mke2fs -q -t ext4 -O ^has_journal -d "$tree" "$image"
rm -r "$tree"
rm -f "$(file_of base)" "$(file_of overlay)"
qemu-img convert -f raw -O qcow2 "$image" "$(file_of base)"
base_sum="$(sha256sum <"$(file_of base)")"
xenblk image create "qcow2:$(file_of overlay)" --backing "qcow2:$(file_of base)"
guest_create beta 'kernel = "/usr/lib/grub-xen/grub-x86_64-xen.bin"' 'ramdisk = ""' 'extra = ""' 'memory = 384' \
  "disk = ['$(tap_disk "qcow2:$(file_of overlay)" xvda)']"
beta="$(domid beta)"
guest_ready beta 200
guest_run beta "mount /dev/xvda /mnt && sha256sum </mnt/boot/vmlinux.gz && $(noise 1) && umount /mnt" 120
equal "${guest_answer%%$'\n'*}" "$(sha256sum </boot/vmlinux.gz)" "sum of the kernel's file in the guest"
guest_run beta 'e2fsck -fn /dev/xvda'
guest_stop beta
wait_for 30 "the storage daemon to end" no_daemons "$beta"
sound qcow2 "$(file_of overlay)"
equal "$(sha256sum <"$(file_of base)")" "$base_sum" "sum of the base"
kill -TERM "$serve_pid"
process_ends "$serve_pid" 30 0
no_daemons || fail "a storage daemon is left: $(daemons)"
note "a killed daemon: $replayed writes replayed, a guest's pause of $pause ms; fstrim: $full KiB became $trimmed KiB"
echo "kill -9 of a storage daemon under fio verify: $replayed writes replayed, a guest's pause $pause ms;" \
  "fstrim shrank a qcow2 from $full to $trimmed KiB" >"$E2E_OUT/report.txt"
