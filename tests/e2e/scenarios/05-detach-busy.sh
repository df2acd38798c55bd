# Disks are detached from a guest that does not release them by itself: one that it has mounted and writes to, and one
# while the guest is paused. The guest sees the request. A detach that times out says so, and its request stays; --force
# completes it. Nothing hangs.
# short: trixie
# timeout: 600 s
image mounted 64M
mounted="$image"
image paused 16M
paused="$image"
image forced 16M
forced="$image"
guest_start alpha
id="$(domid alpha)"

# Since 5.17, Linux releases a disk at once, even in use. Errors of its file system are expected then.
allow_words 'I/O error,? (on )?dev(ice)? xvdb\b|EXT4-fs( [a-z]+)? \((device )?xvdb\): .*I/O error|JBD2: I/O error .*xvdb-8'
attach_start mounted alpha "$mounted" xvdb
mounted_pid="$background_pid"
guest_run alpha 'mkfs.ext4 -q /dev/xvdb && mount /dev/xvdb /mnt'
guest_spawn alpha 'while dd if=/dev/zero of=/mnt/busy bs=64k count=16 conv=fsync 2>/dev/null; do sleep 0.3; done'
load="$spawned"
sleep 2
status=0
xenblk detach alpha xvdb --timeout 10 || status=$?
case "$status" in
  0) ;;
  4) equal "$(backend_state "$id" xvdb)" 5 "the backend's state (Closing)" && xenblk detach alpha xvdb --timeout 5 --force ;;
  *) fail "detach of the mounted disk ended with $status" ;;
esac
process_status "$mounted_pid" 30
guest_wait alpha "$load" 30
guest_run alpha 'umount /mnt; echo alive'

# A paused guest cannot answer. The request is still there when it runs again.
attach_start paused alpha "$paused" xvdc
paused_pid="$background_pid"
xl pause alpha
status=0
xenblk detach alpha xvdc --timeout 3 || status=$?
equal "$status" 4 "status of a detach that timed out"
equal "$(backend_state "$id" xvdc)" 5 "the backend's state (Closing)"
equal "$(frontend_state "$id" xvdc)" 4 "the paused guest's state"
xl unpause alpha
wait_for 30 "the guest to see the request" frontend_state_is "$id" xvdc 6
process_ends "$paused_pid" 30 0
store_gone "/local/domain/0/backend/vbd3" || fail "backend nodes are still there"
guest_run alpha 'test ! -e /dev/xvdc'

# By force, while the guest is paused. Afterwards it continues without the disk.
attach_start forced alpha "$forced" xvdd
forced_pid="$background_pid"
with_ring="$(mappings_of_all)"
xl pause alpha
xenblk detach alpha xvdd --timeout 3 --force
process_status "$forced_pid" 30
equal "$(mappings_of_all)" "$((with_ring - 1))" "mappings of grants, the ring's gone"
xl unpause alpha
store_gone "/local/domain/0/backend/vbd3" || fail "backend nodes are still there"
store_gone "/local/domain/$id/device/vbd/51760" || fail "frontend nodes are still there"
guest_run alpha 'echo alive'
guest_stop alpha
