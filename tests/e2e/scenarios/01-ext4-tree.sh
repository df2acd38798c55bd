# A disk is attached to a running guest. The guest makes a file system on it and copies a tree. After the detach no
# node, mapping or process is left, and the image, mounted in dom0, has the same content in every file.
# short: trixie
# timeout: 300 s
image disk 96M
guest_start alpha
id="$(domid alpha)"
attach_start attach alpha "$image" xvdb
attach_pid="$background_pid"
equal "$(backend_state "$id" xvdb)" 4 "backend's state"
guest_run alpha 'mkfs.ext4 -q /dev/xvdb && mount /dev/xvdb /mnt'
guest_run alpha 'cp -a /usr /lib64 /init /bin/busybox /mnt && cd /mnt && find . -type f ! -name sums -exec sha256sum {} + >/tmp/sums && cp /tmp/sums /mnt/sums && cd / && umount /mnt' 120
guest_run alpha 'e2fsck -fn /dev/xvdb' 60

xenblk list alpha | tee "$E2E_OUT/list.txt"
grep -q 'xvdb .*Connected *Connected' "$E2E_OUT/list.txt" || fail "list does not show the disk as Connected"
xenblk detach alpha xvdb
process_ends "$attach_pid" 30 0
guest_run alpha 'test ! -e /dev/xvdb'
for node in "/local/domain/0/backend/vbd3" "/local/domain/$id/device/vbd/51728" "/libxl/$id/device/vbd"; do
  store_gone "$node" || fail "$node is still there"
done

e2fsck -fn "$image"
mkdir -p /run/e2e/mnt
mount -o ro,loop "$image" /run/e2e/mnt
(cd /run/e2e/mnt && sha256sum --quiet -c sums)
note "$(wc -l </run/e2e/mnt/sums) files equal"
umount /run/e2e/mnt
guest_stop alpha
