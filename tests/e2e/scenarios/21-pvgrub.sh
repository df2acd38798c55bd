# A PV guest boots through GRUB (pvgrub) from a disk that xenblk serves: GRUB connects, reads its menu, the kernel and
# the initramfs, and closes; then the kernel connects to the same device. The second time the image is unlinked while
# GRUB uses it: the kernel is served the same, open file.
# suites: trixie
# short: none
# timeout: 600 s
menu='set timeout=0
menuentry guest {
  linux /boot/vmlinux.gz console=hvc0 mitigations=off nokaslr no_timer_check loglevel=7 panic=1 e2e.modules=xen-blkfront,ext4
  initrd /boot/guest.cpio.gz
}'
tree="$images/$E2E_NAME-tree"
image disk 64M
disk="$image"
mkdir -p "$tree/boot/grub"
echo "$menu" >"$tree/boot/grub/grub.cfg"
cp /boot/vmlinux.gz /boot/guest.cpio.gz "$tree/boot/"
sum="$(sha256sum </boot/vmlinux.gz)"
mke2fs -q -t ext4 -O ^has_journal -d "$tree" "$disk"
rm -r "$tree"
serve_start serve
serve_pid="$background_pid"

# boots NAME: starts a guest through GRUB.
boots() {
  guest_create "$1" 'kernel = "/usr/lib/grub-xen/grub-x86_64-xen.bin"' 'ramdisk = ""' 'extra = ""' 'memory = 384' \
    "disk = ['$(tap_disk "$disk" xvda)']"
}
# The kernel in the guest reads what GRUB read before.
reads_the_same() {
  guest_run "$1" "mount -t ext4 -o ro /dev/xvda /mnt && sha256sum </mnt/boot/vmlinux.gz" 120
  equal "$guest_answer" "$sum" "sum of the kernel's file in $1"
  guest_run "$1" 'umount /mnt'
}
connections() { grep -c 'connected:' "$E2E_OUT/serve.err" || true; }

since="$SECONDS"
boots alpha
guest_ready alpha 200
note "booted through GRUB in $((SECONDS - since)) s"
equal "$(connections)" 2 "connections: one of GRUB, one of the kernel"
reads_the_same alpha
guest_stop alpha

boots beta
beta="$(domid beta)"
wait_for 60 "GRUB to connect" both_connected "$beta" xvda
rm "$disk"
guest_ready beta 200
reads_the_same beta
guest_stop beta
kill -TERM "$serve_pid"
process_ends "$serve_pid" 30 0
