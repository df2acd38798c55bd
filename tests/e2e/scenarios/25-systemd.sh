# xenblk.service of the Debian package, started at boot by a systemd that is process 1 of dom0, with Debian's own units
# of Xen and its udev. It is active only once it serves, after Xen's daemons and before the guests; group, modes and
# directories are as documented. Without Xen it is left out, with a wrong configuration it fails, both with a reason.
# Under fio verify of a guest, on a raw and a qcow2 disk, it is stopped by SIGSTOP (the watchdog ends it), and with
# XENBLK_E2E_FULL=1 also killed, stopped and started, upgraded, and made a service without root: the guest sees pauses
# and no error. The journal has the level and the disk of each line. The removal of the package ends the service.
# suites: trixie
# init: systemd
# short: none
# timeout: 1500 s
XENBLK=(/usr/bin/xenblk)
unit=xenblk.service
drop_in="/etc/systemd/system/$unit.d"

property() { systemctl show "${2:-$unit}" -p "$1" --value; }
# Looking costs time on an emulated machine, so the functions that are waited for look once a second.
property_is() { sleep 1; [ "$(property "$1")" = "$2" ]; }
says_status() { sleep 1; [[ "$(property StatusText)" == *"$1"* ]]; }
says_journal() { journalctl -q -b -u "$unit" --no-pager | grep -- "$1" >"$E2E_OUT/found.txt"; }
mode_is() { equal "$(stat -c '%a %U %G' "$1")" "$2" "mode and owner of $1"; }
# step WHAT COMMAND...: runs it, and notes the seconds that it took.
step() {
  local what="$1" began="$SECONDS"
  say "$what"
  shift
  "$@"
  echo "$((SECONDS - began)) s: $what" | tee -a "$E2E_OUT/report.txt"
}

# ---- boot

equal "$(systemctl is-enabled "$unit")" enabled "the unit after the package's installation"
wait_for 60 "the unit to start" property_is ActiveState active
equal "$(property SubState) $(property NRestarts)" "running 0" "state and restarts after the boot"
equal "$(property StatusText)" "0 disks of kind vbd3, 0 connected" "the status"
[ "$(property ActiveEnterTimestampMonotonic xen.service)" -le "$(property InactiveExitTimestampMonotonic)" ] ||
  fail "xenblk started before Xen's daemons were up"
property After xendomains.service | grep -qw "$unit" || fail "the guests' unit may start before xenblk"
systemd-analyze verify --man=no "$unit" xenblk@qdisk.service 2>&1 || fail "systemd finds faults in the units"
systemd-analyze security --no-pager "$unit" >"$E2E_OUT/security.txt"
grep 'Overall exposure' "$E2E_OUT/security.txt" | tee -a "$E2E_OUT/report.txt"
mode_is /run/xenblk "700 root root"
getent group xenblk || fail "the package made no group"
for device in gntdev evtchn xenbus; do mode_is "/dev/xen/$device" "660 root xenblk"; done
mode_is /dev/xen/privcmd "600 root root"

# ---- where it cannot serve

systemctl stop "$unit"
mount -t tmpfs none /sys/hypervisor
systemctl start "$unit"
equal "$(property ActiveState) $(property ConditionResult)" "inactive no" "state and condition without Xen"
systemctl status --no-pager "$unit" >"$E2E_OUT/no-xen.txt" || true
umount /sys/hypervisor
grep -q 'ConditionPathExists=/sys/hypervisor/type was not met' "$E2E_OUT/no-xen.txt" || fail "the status does not say why"

echo 'engine = 5' >>/etc/xenblk/config.toml
if systemctl start "$unit"; then fail "it started with a wrong configuration"; fi
wait_for 10 "the unit to fail" property_is ActiveState failed
systemctl status --no-pager "$unit" >"$E2E_OUT/wrong.txt" || true
cat "$E2E_OUT/wrong.txt"
grep -q 'config.toml' "$E2E_OUT/wrong.txt" || fail "the status does not say what is wrong"
sed -i '$d' /etc/xenblk/config.toml
systemctl start "$unit"
property_is ActiveState active || fail "it does not start with the mended configuration"

# ---- guests, and the end of the process in every way

image raw 32M
raw="$image"
image probed 4M
probed="$image"
qcow2="$images/$E2E_NAME-qcow2"
rm -f "$qcow2"
qemu-img create -q -f qcow2 "$qcow2" 32M
guest_start alpha "disk = ['$(tap_disk "$raw" xvda)', '$(tap_disk "$probed" xvdb)']"
id="$(domid alpha)"
nodes_write alpha "qcow2:$qcow2" xvdc
wait_for 60 "all disks" says_status "3 disks of kind vbd3, 3 connected"
daemon="$(pgrep -f '^[^ ]*qemu-storage-daemon')"
grep -q '/xenblk-daemon-.*\.scope$' "/proc/$daemon/cgroup" || fail "the storage daemon has no scope of its own"
if says_journal 'of its own, so it'; then fail "the unit keeps the storage daemon from its confinement"; fi

# At a pace that leaves the emulated machine time for the backend.
load_starts alpha xvda --rate_iops=40
raw_load="$load"
load_starts alpha xvdc --size=4M --rate_iops=20
probe_starts alpha xvdb
pauses=0

# serves_again PID: another process than PID serves all disks again, and the load did not notice.
serves_again() {
  wait_for 120 "another process to serve the disks" another_serves "$1"
  ! load_has_ended || fail "the load ended"
  for disk in xvda xvdb xvdc; do both_connected "$id" "$disk" || fail "$disk is not Connected"; done
  pauses=$((pauses + 1))
}
another_serves() {
  local MainPID ActiveState StatusText name value
  sleep 1
  while IFS='=' read -r name value; do declare "$name=$value"; done < <(systemctl show "$unit" -p MainPID,ActiveState,StatusText)
  [ "$MainPID" != "$1" ] && [ "$ActiveState" = active ] && [[ "$StatusText" == *", 3 connected" ]]
}

# loses SIGNAL: the main process gets the signal, and systemd starts another one.
loses() {
  local pid restarts
  pid="$(property MainPID)" restarts="$(property NRestarts)"
  kill "$1" "$pid"
  serves_again "$pid"
  equal "$(property NRestarts)" "$((restarts + 1))" "restarts by systemd"
  equal "$(pgrep -f '^[^ ]*qemu-storage-daemon')" "$daemon" "the storage daemon, which outlives a crash"
}
step "SIGSTOP, the watchdog (20 s), and served again" loses -STOP
says_journal 'Watchdog timeout' || fail "it was not the watchdog"
if [ "$E2E_FULL" = 1 ]; then step "SIGKILL, and served again" loses -KILL; fi

stops_and_starts() {
  local pid
  pid="$(property MainPID)"
  systemctl stop "$unit"
  equal "$(property ActiveState) $(property Result)" "inactive success" "state after the stop"
  if pgrep -f '^/usr/lib/xenblk/|^[^ ]*qemu-storage-daemon'; then fail "a process is left after the stop"; fi
  both_connected "$id" xvda || fail "the stop disconnected the guest"
  # Type=notify: the start returns when the disks are found.
  systemctl start "$unit"
  equal "$(property ActiveState)" active "state after the start"
  says_status "3 disks of kind vbd3" || fail "started before the disks were found: $(property StatusText)"
  serves_again "$pid"
}
if [ "$E2E_FULL" = 1 ]; then step "stop and start" stops_and_starts; fi
equal "$(property CanReload)" no "reload, which is not offered"

upgrades() {
  local pid
  pid="$(property MainPID)"
  dpkg --force-unsafe-io --force-confold -i /payload/packages/next.deb
  serves_again "$pid"
  [[ "$(readlink "/proc/$(property MainPID)/exe")" == /usr/lib/xenblk/*+next/* ]] || fail "the old version serves"
}
if [ "$E2E_FULL" = 1 ]; then step "upgrade of the package" upgrades; fi

# ---- the journal

nodes_write alpha "$images/$E2E_NAME-missing" xvdd
wait_for 30 "the status to name the disk" says_status "1 with an error: xvdd of alpha: "
property StatusText
nodes_remove "$id" xvdd
journalctl -q -b -u "$unit" -p warning XENBLK_GUEST=alpha XENBLK_VDEV=xvdd -o json --no-pager >"$E2E_OUT/warnings.json"
python3 - "$E2E_OUT/warnings.json" "$id" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert lines, "no warning about the disk"
for line in lines:
    print(line["PRIORITY"], line["MESSAGE"])
    wanted = {"XENBLK_DOMAIN": sys.argv[2], "XENBLK_GUEST": "alpha", "XENBLK_KIND": "vbd3", "SYSLOG_IDENTIFIER": "xenblk"}
    assert wanted.items() <= line.items(), line
PYTHON
says_journal 'xvda of alpha' || fail "the journal does not tell about xvda"

# ---- a service without root as docs/unprivileged.md has it, confined as docs/security.md has it

# printed_in DOCUMENT: the lines of its unit.
printed_in() { awk '/^```ini$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$project/docs/$1"; }
is_confined() {
  local pid
  pid="$(property MainPID)"
  useradd --system --gid xenblk --no-create-home xenblk
  chown xenblk "$images/$E2E_NAME"-*
  printed_in unprivileged.md >"$drop_in/user.conf"
  printed_in security.md | sed "s|/var/lib/xen/images|$images|" >"$drop_in/confined.conf"
  # Not root, it speaks to xenstored by the kernel.
  echo 'DeviceAllow=/dev/xen/xenbus rw' >>"$drop_in/confined.conf"
  systemctl daemon-reload
  systemctl restart "$unit"
  serves_again "$pid"
  pid="$(property MainPID)"
  equal "$(stat -c %U "/proc/$pid")" xenblk "who serves"
  grep -q '^CapBnd:.0*$' "/proc/$pid/status" || fail "it may have capabilities"
  mode_is /run/xenblk "700 xenblk xenblk"
}
if [ "$E2E_FULL" = 1 ]; then
  step "restart without root, confined" is_confined
  systemd-analyze security --no-pager "$unit" | grep 'Overall exposure' | tee -a "$E2E_OUT/report.txt"
  rm "$drop_in/user.conf" "$drop_in/confined.conf"
  systemctl daemon-reload
fi
load_ends 120
load="$raw_load"
load_ends 120
probe_ends "$pauses"
echo "$pauses pauses that the guest saw: median $pause_median ms, worst $pause_worst ms" >>"$E2E_OUT/report.txt"

# ---- removal

guest_stop alpha
nodes_remove "$id" xvdc
wait_for 60 "all disks to go" says_status "0 disks of kind vbd3"
step "removal of the package" dpkg -r xenblk
if pgrep -f '^/usr/lib/xenblk/'; then fail "a process is left after the removal"; fi
equal "$(property ActiveState)" inactive "the unit after the removal"
note "$pauses restarts, a guest's pause: median $pause_median ms, worst $pause_worst ms"
