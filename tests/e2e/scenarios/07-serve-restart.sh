# SIGTERM to `serve`, then `serve` again: with the guest idle, and three times under fio with verification. The guest
# sees a pause and no error, and the states stay Connected all along.
# timeout: 300 s
image disk 16M
guest_start alpha
id="$(domid alpha)"
serve_start serve-0
serve_pid="$background_pid"
nodes_write alpha "$image" xvdb
wait_for 30 "the disk" both_connected "$id" xvdb

# restart NUMBER: ends serve and starts it again.
restart() {
  kill -TERM "$serve_pid"
  process_ends "$serve_pid" 20 0
  both_connected "$id" xvdb || fail "the states did not stay Connected"
  serve_start "serve-$1"
  serve_pid="$background_pid"
  wait_for 60 "serve to take the ring up again" grep -q 'connected:' "$E2E_OUT/serve-$1.err"
}

guest_run alpha 'dd if=/dev/urandom of=/tmp/pattern bs=64k count=32 2>/dev/null && dd if=/tmp/pattern of=/dev/xvdb bs=64k conv=fsync 2>/dev/null'
restart 1
guest_run alpha 'echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/xvdb bs=64k count=32 2>/dev/null | cmp - /tmp/pattern' 60

guest_spawn alpha "$(fio_verify xvdb --loops=4)"
load="$spawned"
for round in 2 3 4; do
  sleep 3
  if xenstore-exists "/local/domain/$id/data/e2e/out/$load/status"; then fail "the load ended before restart $round"; fi
  restart "$round"
done
guest_wait alpha "$load" 180
both_connected "$id" xvdb || fail "not Connected at the end"
guest_stop alpha
kill -TERM "$serve_pid"
process_ends "$serve_pid" 20 0
nodes_remove "$id" xvdb
