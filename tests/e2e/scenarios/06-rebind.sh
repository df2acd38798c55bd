# The guest's driver is unbound with reads in flight, and its device starts again (Closed, then Initialising with
# online=1), three times (eleven times with XENBLK_E2E_FULL=1). Each time the disk comes back with the right data, and
# nothing accumulates in the backend.
# short: none
# timeout: 900 s
rounds=2
[ "${E2E_FULL:-}" != 1 ] || rounds=10
image disk 16M
guest_start alpha
id="$(domid alpha)"
attach_start attach alpha "$image" xvdb
attach_pid="$background_pid"
guest_run alpha 'dd if=/dev/urandom of=/tmp/pattern bs=64k count=64 2>/dev/null && dd if=/tmp/pattern of=/dev/xvdb bs=64k conv=fsync 2>/dev/null'
# The reader loses its disk, so errors are expected.
allow_words 'I/O error,? (on )?dev(ice)? xvdb\b'
held() { echo "$(mappings "$attach_pid") mappings, $(ls "/proc/$attach_pid/fd" | wc -l) descriptors"; }
held_is() { [ "$(held)" = "$1" ]; }
# A thread that opened the image has descriptors of its own until it has been idle for 3 s.
settled() {
  before="$(held)"
  sleep 4
  held_is "$before"
}
rebind() {
  guest_spawn alpha 'while dd if=/dev/xvdb of=/dev/null bs=128k iflag=direct 2>/dev/null; do :; done'
  load="$spawned"
  sleep 0.5
  frontend_anew alpha xvdb
  guest_wait alpha "$load" 30
  guest_run alpha 'for i in $(seq 100); do test "$(cat /sys/block/xvdb/size)" = 32768 && break; sleep 0.1; done; dd if=/dev/xvdb bs=64k count=64 2>/dev/null | cmp - /tmp/pattern'
}
# Deno creates an event queue of its own when the first thread ends, so the first round does not count.
rebind
wait_for 60 "the backend's descriptors to settle" settled
ls -l "/proc/$attach_pid/fd" >"$E2E_OUT/descriptors-before.txt"
for round in $(seq "$rounds"); do rebind; done
ls -l "/proc/$attach_pid/fd" >"$E2E_OUT/descriptors-after.txt"
wait_for 30 "the backend to hold '$before' again after $rounds rounds" held_is "$before"
guest_run alpha "$(fio_verify xvdb --size=4M)"
kill -TERM "$attach_pid"
process_ends "$attach_pid" 30 0
guest_stop alpha
