# Another process locks the image for a while, as the source of a migration does, when a guest's disk is attached. xl
# returns 0, the error node says what the disk waits for, and the guest has the disk once the lock is free.
# suites: trixie
# short: none
# timeout: 500 s
image disk 16M
disk="$image"
serve_start serve
serve_pid="$background_pid"
guest_start alpha
id="$(domid alpha)"
background holder python3 "$project/tests/e2e/dom0/hold_lock.py" "$disk" 40
holder="$background_pid"
wait_for 20 "the lock" grep -q locked "$E2E_OUT/holder.log"

xl block-attach alpha "$(tap_disk "$disk" xvdb)"
waits() { store "/local/domain/0/backend/vbd3/$id/51728/error" | grep -q 'waits for'; }
wait_for 5 "the error node to say what the disk waits for" waits
store "/local/domain/0/backend/vbd3/$id/51728/error"
! process_ended "$holder" || fail "the holder of the lock ended before the check"
guest_run alpha 'test ! -e /dev/xvdb'
process_ends "$holder" 40 0
wait_for 15 "the disk" both_connected "$id" xvdb
equal "$(store "/local/domain/0/backend/vbd3/$id/51728/error")" "" "error node of the connected disk"
guest_run alpha "$(fio_verify xvdb --size=4M)"
xl block-detach alpha xvdb
kill -TERM "$serve_pid"
process_ends "$serve_pid" 30 0
guest_stop alpha
