# The functions of the restart scenarios: a backend that restarts whenever it ends, load without a time limit, and a
# probe that measures the guest's pauses. Sourced by lib.sh.

# keep_serving NAME [OPTION...]: serves all devices of a kind, as systemd does with Restart=always and RestartSec=200ms:
# whenever `serve` ends, it is started again. Its pid is in the file $kept_pid, its stderr in NAME.err.
keep_serving() {
  local name="$1"
  shift
  kept_pid="/run/e2e/$name.pid" kept_log="$E2E_OUT/$name.err"
  rm -f "$kept_pid" /run/e2e/keep-ending
  keeper "$@" </dev/null >"$E2E_OUT/$name.log" 2> >(with_time >"$kept_log") &
  echo "$!" >>/run/e2e/pids
  wait_for 60 "serve to come up" grep -q serving "$kept_log"
}

keeper() {
  local status
  trap - ERR
  set +e
  while [ ! -e /run/e2e/keep-ending ]; do
    "${XENBLK[@]}" serve "$@" &
    echo "$!" | tee -a /run/e2e/pids >"$kept_pid.new"
    mv "$kept_pid.new" "$kept_pid"
    wait "$!"
    status="$?"
    echo "serve ended with status $status" >&2
    [ -e /run/e2e/keep-ending ] || sleep 0.2
  done
}

# kept_ends SIGNAL: ends the process that serves now. Another one follows.
kept_ends() { kill "-$1" "$(cat "$kept_pid")"; }
# kept_count REGEX: prints how many lines of its messages match.
kept_count() { grep -c "$1" "$kept_log" || true; }
kept_count_is() { [ "$(kept_count "$1")" -ge "$2" ]; }
# keep_serving_no_more: ends it without a restart.
keep_serving_no_more() {
  : >/run/e2e/keep-ending
  kept_ends TERM
  wait_for 60 "serve to end" process_ended "$(cat "$kept_pid")"
}

# load_starts GUEST DISK [ARGUMENT...]: repeats a verified load in the background of a guest, until load_ends.
load_starts() {
  local guest="$1" disk="$2"
  shift 2
  guest_spawn "$guest" "rm -f /tmp/enough; rounds=0; until [ -e /tmp/enough ]; do $(fio_verify "$disk" "$*") || exit 1; rounds=\$((rounds + 1)); done; echo \$rounds rounds"
  load="$spawned" load_guest="$guest"
}
load_has_ended() { xenstore-exists "/local/domain/$(domid "$load_guest")/data/e2e/out/$load/status"; }
# load_ends SECONDS: ends the load after the current round. Every round must have passed without an error.
load_ends() {
  guest_run "$load_guest" ': >/tmp/enough'
  guest_wait "$load_guest" "$load" "$1"
}

# probe_starts GUEST DISK: reads 4 KiB ten times per second in the background of a guest and records how long each read
# takes. End it after the load.
probe_starts() {
  guest_spawn "$1" "fio --name=probe --filename=/dev/$2 --ioengine=psync --direct=1 --rw=randread --bs=4k --thinktime=100000 --time_based --runtime=3600 --write_lat_log=/tmp/probe --log_offset=0 --output=/tmp/probe.txt; cut -d, -f2 /tmp/probe_clat.1.log | sort -n | tail -40 | tr '\n' ' '"
  probe="$spawned" probe_guest="$1"
}
# probe_ends COUNT: ends the probe. The median and the maximum of its COUNT longest reads, in ms, are then in
# $pause_median and $pause_worst. With COUNT pauses, each of them delays one read, so these reads show the pauses.
probe_ends() {
  local pauses
  guest_run "$probe_guest" 'killall -INT fio || true'
  guest_wait "$probe_guest" "$probe" 120
  pauses="$(echo "$guest_answer" | tr ' ' '\n' | grep -E '^[0-9]+$' | sort -n | tail -"$1")"
  pause_median="$(echo "$pauses" | awk -v half="$((($1 + 1) / 2))" 'NR == half { printf "%d", $1 / 1000000 }')"
  pause_worst="$(echo "$pauses" | awk 'END { printf "%d", $1 / 1000000 }')"
}
