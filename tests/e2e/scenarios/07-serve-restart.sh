# `serve` is ended by SIGTERM and restarted as systemd does: with an idle guest, and twice under fio with
# verification (ten times with XENBLK_E2E_FULL=1). The guest sees pauses but no error, and the states stay Connected.
# short: trixie
# timeout: 900 s
rounds=2
[ "${E2E_FULL:-}" != 1 ] || rounds=10
image disk 16M
image probed 4M
guest_start alpha
id="$(domid alpha)"
keep_serving serve
nodes_write alpha "$images/$E2E_NAME-disk" xvdb
nodes_write alpha "$images/$E2E_NAME-probed" xvdc
wait_for 60 "the disk" both_connected "$id" xvdb
wait_for 60 "the probed disk" both_connected "$id" xvdc

# Ends serve by TERM and waits until the next process serves both disks.
restart() {
  local ended connected
  ended="$(kept_count 'serve ended with status 0')" connected="$(kept_count 'connected:')"
  kept_ends TERM
  wait_for 60 "serve to end by itself, with status 0" kept_count_is 'serve ended with status 0' "$((ended + 1))"
  both_connected "$id" xvdb || fail "the states did not stay Connected"
  wait_for 120 "both disks to be served again" kept_count_is 'connected:' "$((connected + 2))"
}

guest_run alpha 'dd if=/dev/urandom of=/tmp/pattern bs=64k count=32 2>/dev/null && dd if=/tmp/pattern of=/dev/xvdb bs=64k conv=fsync 2>/dev/null'
restart
guest_run alpha 'echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/xvdb bs=64k count=32 2>/dev/null | cmp - /tmp/pattern' 60

load_starts alpha xvdb
probe_starts alpha xvdc
for round in $(seq "$rounds"); do
  sleep 2
  ! load_has_ended || fail "the load ended before restart $round"
  restart
done
load_ends 180
both_connected "$id" xvdb || fail "not Connected at the end"
probe_ends "$rounds"
note "$rounds restarts under load; a guest's pause: median $pause_median ms, worst $pause_worst ms"
echo "$rounds times SIGTERM under fio verify, started again after 0.2 s; pauses that a guest saw: median $pause_median ms, worst $pause_worst ms" >"$E2E_OUT/report.txt"
keep_serving_no_more
guest_stop alpha
nodes_remove "$id" xvdb
nodes_remove "$id" xvdc
