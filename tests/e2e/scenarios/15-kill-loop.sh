# `serve` is killed by kill -9 three times under fio with verification (twenty times with XENBLK_E2E_FULL=1), and
# restarted each time as systemd does. fio reads back every byte that it wrote; the guest sees pauses but no error.
# One process of four is killed while it starts.
# suites: trixie
# timeout: 1200 s
rounds=3
[ "${E2E_FULL:-}" != 1 ] || rounds=20
image disk 16M
image probed 4M
probed="$image"
guest_start alpha
id="$(domid alpha)"
keep_serving serve
nodes_write alpha "$images/$E2E_NAME-disk" xvdb
nodes_write alpha "$probed" xvdc
wait_for 60 "the disk" both_connected "$id" xvdb
wait_for 60 "the probed disk" both_connected "$id" xvdc
load_starts alpha xvdb
probe_starts alpha xvdc
sleep 3

connected=2 kills=0
while [ "$kills" -lt "$rounds" ]; do
  ! load_has_ended || fail "the load ended before kill $((kills + 1))"
  ended="$(kept_count 'ended with status 137')"
  # At any point: with requests in flight, or while the process still reconnects the rings.
  sleep "$((RANDOM % 2)).$((RANDOM % 10))"
  kept_ends KILL
  kills=$((kills + 1))
  wait_for 60 "the killed process to end" kept_count_is 'ended with status 137' "$((ended + 1))"
  if [ $((kills % 4)) = 1 ] && [ "$kills" -lt "$rounds" ]; then
    starts="$(kept_count 'serving all of kind')"
    wait_for 60 "the next process to start" kept_count_is 'serving all of kind' "$((starts + 1))"
    continue
  fi
  connected="$(kept_count 'connected:')"
  wait_for 120 "both disks to be served again" kept_count_is 'connected:' "$((connected + 2))"
done
load_ends 180
both_connected "$id" xvdb || fail "not Connected at the end"
# A kill during the start only lengthens the previous pause.
pauses="$((rounds - (rounds + 2) / 4))"
probe_ends "$pauses"
note "$kills kills; a guest's pause: median $pause_median ms, worst $pause_worst ms"
echo "$kills times kill -9 under fio verify, started again after 0.2 s; pauses that a guest saw: median $pause_median ms, worst $pause_worst ms" >"$E2E_OUT/report.txt"
keep_serving_no_more
guest_stop alpha
nodes_remove "$id" xvdb
nodes_remove "$id" xvdc
