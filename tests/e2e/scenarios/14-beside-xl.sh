# Our attach and detach, in a guest that also has disks that xl manages (blkback and qdisk). Each disk keeps working
# while others come and go, and `list` shows all of them.
# timeout: 500 s
image qdisk 16M
image blkback 16M
image ours 16M
guest_start alpha "disk = ['format=raw,vdev=xvdb,access=rw,backendtype=qdisk,target=$images/$E2E_NAME-qdisk']"
loop="$(losetup -f --show "$images/$E2E_NAME-blkback")"
xl block-attach alpha "phy:$loop,xvdc,w"
attach_start attach alpha "$images/$E2E_NAME-ours" xvdd
attach_pid="$background_pid"
xenblk list alpha | tee "$E2E_OUT/list.txt"
for kind in qdisk vbd vbd3; do grep -qw "$kind" "$E2E_OUT/list.txt" || fail "list shows no disk of kind $kind"; done
for disk in xvdb xvdc xvdd; do
  guest_spawn alpha "$(fio_verify "$disk")"
  loads="${loads:-} $spawned"
done
for load in $loads; do guest_wait alpha "$load" 120; done
xl block-list alpha
xl block-detach alpha xvdc
guest_run alpha "$(fio_verify xvdd --size=2M)"
xenblk detach alpha xvdd
process_ends "$attach_pid" 30 0
guest_run alpha "test ! -e /dev/xvdd && $(fio_verify xvdb --size=2M)"
guest_stop alpha
