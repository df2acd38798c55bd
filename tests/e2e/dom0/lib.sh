# The functions of scenarios: guests, the backend under test, its peers, waiting and failing. Sourced by job.sh before
# each scenario, in dom0. A scenario fails by `fail`, by any command that fails, or by its timeout.
set -Eeuo pipefail
project=/payload/project
images=/scratch/images
mkdir -p "$images" /run/e2e

# Names the line of the scenario, even if the command that failed is deep in this file.
on_error() {
  local status=$? command="$BASH_COMMAND" depth
  for depth in "${!BASH_SOURCE[@]}"; do
    [[ "${BASH_SOURCE[depth]}" == *scenarios/* ]] && break
  done
  echo "FAIL: line ${BASH_LINENO[depth - 1]} of $E2E_NAME: status $status of ${failing:-$command}"
}
trap on_error ERR

say() { echo "$(date +%T) $*"; }
note() { echo "NOTE: $*"; }
fail() { trap - ERR; echo "FAIL: $*"; exit 1; }
skip() { trap - ERR; echo "SKIP: $*"; exit 77; }

# Permits words in the logs that this scenario causes on purpose: allow_words REGEX
allow_words() { echo "$1" >>/run/e2e/allowed; }

# Multiplies each time limit. The limits are for an idle machine.
patience=4

# wait_for SECONDS WHAT COMMAND...: waits until the command succeeds.
wait_for() {
  local deadline=$((SECONDS + patience * $1)) what="$2"
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "waited too long for $what"
    sleep 0.2
  done
}

equal() { [ "$1" = "$2" ] || fail "$3: '$1', expected '$2'"; }
store() { xenstore-read "$1" 2>/dev/null || true; }
store_is() { [ "$(store "$1")" = "$2" ]; }
store_gone() { ! xenstore-exists "$1"; }

# ---- guests

domid() { xl domid "$1"; }

# guest_start NAME [LINE...]: creates a guest and waits until it takes commands. Each LINE is added to its
# configuration.
guest_start() {
  guest_create "$@"
  guest_ready "$1"
}

guest_create() {
  local name="$1" extra="" line
  shift
  for line in "$@"; do extra="$extra
$line"; done
  guest_config "$name" "$extra" >"/run/e2e/$name.cfg"
  say "creating guest $name"
  xl create -q "/run/e2e/$name.cfg"
}

# A later line overrides an earlier one, so a scenario can override these.
guest_config() {
  cat <<CONFIG
name = "$1"
type = "pv"
kernel = "/boot/vmlinux"
ramdisk = "/boot/guest.cpio"
memory = 192
vcpus = 1
extra = "console=hvc0 mitigations=off nokaslr no_timer_check loglevel=7 panic=1 ${GUEST_ARGUMENTS:-} e2e.modules=xen-blkfront,ext4"
on_poweroff = "destroy"
on_crash = "destroy"
$2
CONFIG
}

guest_ready() { wait_for "${2:-90}" "guest $1 to come up" guest_is_ready "$1"; }
guest_is_ready() { store_is "/local/domain/$(domid "$1")/data/e2e/state" ready; }

guest_sequence=0
# guest_spawn NAME COMMAND: starts a command in the guest; its number is then in $spawned.
guest_spawn() {
  guest_sequence=$((guest_sequence + 1))
  spawned="$guest_sequence"
  say "guest $1 [$spawned] $2"
  xenstore-write "/local/domain/$(domid "$1")/data/e2e/cmd/$spawned" "$2"
}

# guest_wait NAME NUMBER SECONDS: waits for a command, prints its output and returns its status.
guest_wait() {
  local node status
  node="/local/domain/$(domid "$1")/data/e2e/out/$2"
  wait_for "$3" "guest $1 to finish [$2]" xenstore-exists "$node/status"
  guest_answer="$(xenstore-read -R "$node/text")"
  status="$(xenstore-read "$node/status")"
  xenstore-rm "$node"
  if [ -n "$guest_answer" ]; then echo "$guest_answer" | sed 's/^/  | /'; fi
  failing="guest $1's command [$2]"
  return "$status"
}

# guest_run NAME COMMAND [SECONDS]
guest_run() {
  guest_spawn "$1" "$2"
  guest_wait "$1" "$spawned" "${3:-60}"
}

# guest_fails NAME COMMAND [SECONDS]: the command must fail in the guest.
guest_fails() { if guest_run "$@"; then fail "succeeded in the guest, but must fail: $2"; fi; }

guest_stop() {
  local id
  id="$(domid "$1")"
  guest_spawn "$1" "poweroff -f"
  wait_for 60 "guest $1 to be gone" domain_gone "$id"
}
domain_gone() { ! xl list "$1"; }

# new_domain NAME DOMID: succeeds if the guest runs with another domain id.
new_domain() {
  local id
  id="$(domid "$1")" && [ "$id" != "$2" ]
}

# A restored guest has a new directory. Its agent takes commands again once the command node exists there.
guest_adopt() { xenstore-write "/local/domain/$(domid "$1")/data/e2e/cmd" ""; }

# ---- the backend under test

XENBLK=(/payload/xenblk)

# Runs xenblk in the foreground.
xenblk() {
  say "xenblk $*"
  "${XENBLK[@]}" "$@"
}

# background NAME COMMAND...: runs a command with stdout in NAME.log and stderr in NAME.err of the scenario's folder.
# Its pid is then in $background_pid.
background() {
  local name="$1"
  shift
  say "in the background: ${*/#"${XENBLK[0]}"/xenblk}"
  "$@" >"$E2E_OUT/$name.log" 2> >(with_time >"$E2E_OUT/$name.err") </dev/null &
  background_pid=$!
  echo "$background_pid" >>/run/e2e/pids
}

# Puts the time in front of each line.
with_time() { while IFS= read -r line; do printf '%(%T)T %s\n' -1 "$line"; done; }

process_ended() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status"; }

# process_status PID SECONDS: waits for a background process and leaves its exit status in $ended_status.
process_status() {
  wait_for "$2" "process $1 to end" process_ended "$1"
  ended_status=0
  wait "$1" || ended_status=$?
}

# process_ends PID SECONDS STATUS: waits for the process and checks its exit status.
process_ends() {
  process_status "$1" "$2"
  equal "$ended_status" "$3" "exit status of process $1"
}

# said_or_ended FILE REGEX PID
said_or_ended() { grep -q "$2" "$1" || process_ended "$3"; }

# attach_start NAME GUEST IMAGE VDEV [OPTION...]: attaches and serves in the background, waits until the disk is
# connected.
attach_start() {
  local name="$1" guest="$2" image="$3" vdev="$4"
  shift 4
  background "$name" "${XENBLK[@]}" attach "$guest" "$image" "$vdev" --timeout 300 "$@"
  wait_for 100 "$vdev of $guest to connect" said_or_ended "$E2E_OUT/$name.log" "$vdev" "$background_pid"
  if ! grep -q "$vdev" "$E2E_OUT/$name.log"; then
    cat "$E2E_OUT/$name.err"
    fail "attach ended early"
  fi
}

# serve_start NAME [OPTION...]: serves all devices of a kind in the background, waits until it reports that it serves.
serve_start() {
  local name="$1"
  shift
  background "$name" "${XENBLK[@]}" serve "$@"
  wait_for 60 "serve to come up" said_or_ended "$E2E_OUT/$name.err" serving "$background_pid"
  if process_ended "$background_pid"; then
    cat "$E2E_OUT/$name.err"
    fail "serve ended early"
  fi
}

# Writes a device's nodes as a toolstack does, for `serve` where xl does not know our kind. IMAGE is a path, or what the
# node params says.
# nodes_write GUEST IMAGE VDEV [r|w] [KIND]
nodes_write() {
  local id vdev params="$2" mode="${4:-w}" kind="${5:-vbd3}" be fe
  case "$params" in /*) params="aio:$params" ;; esac
  id="$(domid "$1")" vdev="$(vdev_number "$3")"
  be="/local/domain/0/backend/$kind/$id/$vdev" fe="/local/domain/$id/device/vbd/$vdev"
  say "writing the nodes of $be"
  xenstore-write "$be/frontend" "$fe" "$be/frontend-id" "$id" "$be/online" 1 "$be/removable" 0 "$be/bootable" 1 \
    "$be/dev" "$3" "$be/type" "$kind" "$be/mode" "$mode" "$be/device-type" disk "$be/params" "$params" \
    "$be/discard-enable" 1 "$be/state" 1
  xenstore-chmod -r "$be" n0 "r$id"
  xenstore-write "$fe/backend" "$be" "$fe/backend-id" 0 "$fe/virtual-device" "$vdev" "$fe/device-type" disk "$fe/state" 1
  xenstore-chmod -r "$fe" "n$id" r0
}

# frontend_anew GUEST VDEV: does what a guest does that starts another kernel: the frontend is Closed, then
# Initialising, while the backend stays online. Linux takes a frontend device as new only after its node has vanished
# and come back. So this hides the node from the guest for a moment; the backend still sees it.
frontend_anew() {
  local id vdev fe
  id="$(domid "$1")" vdev="$(vdev_number "$2")"
  fe="/local/domain/$id/device/vbd/$vdev"
  guest_run "$1" "echo vbd-$vdev >/sys/bus/xen/drivers/vbd/unbind"
  wait_for 30 "both ends to be Closed" both_closed "$id" "$2"
  xenstore-chmod -r "$fe" n0
  guest_run "$1" "for i in \$(seq 100); do test -e /sys/bus/xen/devices/vbd-$vdev || exit 0; sleep 0.1; done; exit 1"
  # Linux ignores a new device while its backend is still Closed. A kernel that boots finds the backend further on.
  xenstore-write "$fe/state" 1
  wait_for 30 "the backend to offer the disk again" backend_state_is "$id" "$2" 2
  xenstore-chmod -r "$fe" "n$id" r0
  wait_for 60 "both ends to connect again" both_connected "$id" "$2"
}
both_closed() { backend_state_is "$1" "$2" 6 && frontend_state_is "$1" "$2" 6; }

# nodes_remove DOMID VDEV [KIND]: removes the nodes, as the toolstack does once both ends are Closed.
nodes_remove() {
  local vdev
  vdev="$(vdev_number "$2")"
  xenstore-rm -t "/local/domain/0/backend/${3:-vbd3}/$1/$vdev"
  xenstore-rm "/local/domain/$1/device/vbd/$vdev" 2>/dev/null || true
}

backend_state() { store "/local/domain/0/backend/${3:-vbd3}/$1/$(vdev_number "$2")/state"; }
backend_state_is() { [ "$(backend_state "$1" "$2")" = "$3" ]; }
frontend_state() { store "/local/domain/$1/device/vbd/$(vdev_number "$2")/state"; }
frontend_state_is() { [ "$(frontend_state "$1" "$2")" = "$3" ]; }
both_connected() { backend_state_is "$1" "$2" 4 && frontend_state_is "$1" "$2" 4; }

# Count the grant mappings of one process or of all, and dom0's event channels to a domain.
mappings() { grep -c /dev/xen/gntdev "/proc/$1/maps" || true; }
mappings_of_all() { cat /proc/[0-9]*/maps 2>/dev/null | grep -c /dev/xen/gntdev || true; }
mappings_below() { [ "$(mappings "$1")" -lt "$2" ]; }
ports_to() { /usr/lib/xen-*/bin/lsevtchn 0 | grep -c "Remote Domain $1\b" || true; }
no_ports_to() { [ "$(ports_to "$1")" = 0 ]; }

vdev_number() {
  local letter="${1#xvd}"
  echo $(((202 << 8) | (($(printf '%d' "'$letter") - 97) << 4)))
}

# The line for one of our disks in xl's configuration: tap_disk IMAGE VDEV [ACCESS]
tap_disk() { echo "format=raw,backendtype=tap,script=block-xenblk,vdev=$2,access=${3:-rw},target=$1"; }

# ---- disks and load

# image NAME SIZE: creates a sparse image; its path is then in $image.
image() {
  image="$images/$E2E_NAME-$1"
  rm -f "$image"
  truncate -s "$2" "$image"
}

# fio_verify DISK [ARGUMENT...]: prints a guest command for a fio job that verifies what it wrote.
fio_verify() {
  local disk="$1"
  shift
  echo "fio --name=verify --filename=/dev/$disk --ioengine=io_uring --direct=1 --iodepth=32 --rw=randwrite" \
    "--bsrange=4k-64k --size=12M --fsync=64 --verify=crc32c --verify_fatal=1 --do_verify=1 --randrepeat=0" \
    "--output-format=terse --terse-version=3 $* >/tmp/fio.$disk.txt 2>&1 || { tail -c 1500 /tmp/fio.$disk.txt; false; }"
}

# CPU time that dom0 has used, in ms.
dom0_cpu_ms() { xl list 0 | awk 'NR == 2 { printf "%d", $NF * 1000 }'; }

. "$E2E_HERE/restarts.sh"
