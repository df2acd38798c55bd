# The Debian package in dom0, step by step as docs/start.md has it, with the time of each step: installed, its serve runs
# and a disk is attached to a running guest. The package is upgraded while the guest verifies its load, and serve is
# restarted: the guest sees a pause and no error. A removal is refused while the guest uses the disk; afterwards only
# the configuration is left. This dom0 has no systemd: the scenario restarts serve where the package would.
# suites: trixie
# short: trixie
# timeout: 600 s
XENBLK=(/usr/bin/xenblk)

# step WHAT COMMAND...: runs it, and notes the seconds that it took.
step() {
  local what="$1" began="$SECONDS"
  shift
  "$@"
  echo "$((SECONDS - began)) s: $what" | tee -a "$E2E_OUT/report.txt"
}

step "install the package" dpkg --force-unsafe-io --force-confnew -i /payload/packages/first.deb
xenblk doctor >"$E2E_OUT/doctor.txt" 2>&1 || true
grep -q 'libxengnttab' "$E2E_OUT/doctor.txt" || fail "doctor of the package does not look at Xen's libraries"
image disk 64M
disk="$image"
image probed 4M
probed="$image"
guest_start alpha
id="$(domid alpha)"
step "start serve" keep_serving serve
step "attach a disk" xenblk attach alpha "$disk" xvdb --background --timeout 300
step "attach another" xenblk attach alpha "$probed" xvdc --background --timeout 300
step "make it larger" xenblk resize alpha xvdb 80M
guest_run alpha 'test "$(cat /sys/block/xvdb/size)" = 163840'

# served_by: prints the program that the process of the disks runs: the package has a folder for each version.
served_by() {
  local pid
  pid="$("${XENBLK[@]}" list --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["live"]["pid"])')"
  readlink "/proc/$pid/exe"
}
load_starts alpha xvdb
probe_starts alpha xvdc
sleep 2
connected="$(kept_count 'connected:')"
step "upgrade under load" dpkg --force-unsafe-io --force-confold -i /payload/packages/next.deb
! load_has_ended || fail "the load ended before the restart"
kept_ends TERM
wait_for 120 "both disks to be served again" kept_count_is 'connected:' "$((connected + 2))"
program="$(served_by)"
[[ "$program" == /usr/lib/xenblk/*+next/* ]] || fail "after the upgrade, $program serves"
load_ends 180
probe_ends 1
both_connected "$id" xvdb || fail "not Connected after the upgrade"
note "an upgrade under load: a guest's pause of $pause_worst ms"
echo "a guest's pause during the upgrade: $pause_worst ms" >>"$E2E_OUT/report.txt"

if dpkg -r xenblk >"$E2E_OUT/refused.txt" 2>&1; then fail "the package was removed under a guest's disk"; fi
cat "$E2E_OUT/refused.txt"
grep -q 'alpha' "$E2E_OUT/refused.txt" || fail "the refused removal does not name the guest"
both_connected "$id" xvdb || fail "not Connected after the refused removal"
step "detach" xenblk detach alpha xvdb
xenblk detach alpha xvdc
keep_serving_no_more
step "remove the package" dpkg -r xenblk
[ ! -e /usr/bin/xenblk ] && [ ! -e /usr/lib/xenblk ] || fail "the removed package left its program"
[ -e /etc/xenblk/config.toml ] || fail "the removed package took its configuration along"
guest_stop alpha
