# Disks that change under a running guest: a database commits synchronously on a qcow2 disk, and fio verifies what it
# writes to a raw one. Meanwhile the qcow2 has two snapshots, which are given up again; a full and three incremental backups,
# each compared with what the guest read at that instant; its storage daemon is killed in a backup, after which the next
# one is full; and the disk moves to another qcow2, to a block device, and back. The raw disk has a limit that fio meets
# within 5 %, and moves to a qcow2, to a block device and back to a raw file. No request fails, and no row is lost.
# suites: trixie
# short: none
# timeout: 2400 s
file() { echo "$images/$E2E_NAME-$1"; }
rm -f "$(file '')"*
xenblk image create "qcow2:$(file disk.qcow2)" 64M
image data 32M
data="$image"
guest_start alpha
id="$(domid alpha)"
serve_start serve
serve_pid="$background_pid"
"${XENBLK[@]}" attach alpha "qcow2:$(file disk.qcow2)" xvdb --background --timeout 300
"${XENBLK[@]}" attach alpha "$data" xvdc --background --timeout 300

# ---- load: a row per transaction, each durable before the next one; and fio

guest_run alpha 'mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/xvdb && mount -o noatime /dev/xvdb /mnt && sqlite3 /mnt/db "pragma journal_mode=delete; create table t(n integer primary key, text text);"' 120
guest_spawn alpha 'n=0; echo 0 >/tmp/rows; while test ! -e /tmp/enough; do while test -e /tmp/hold; do : >/tmp/held; sleep 0.2; done; n=$((n+1)); sqlite3 /mnt/db "pragma synchronous=full; insert into t values($n, hex(randomblob(500)));" >/dev/null || exit 1; echo $n >/tmp/rows; done'
database="$spawned"
guest_spawn alpha "while test ! -e /tmp/verified; do $(fio_verify xvdc --size=4M); done"
verify="$spawned"

# hold: the database waits, and all that it has written is on the disk.
hold() { guest_run alpha 'rm -f /tmp/held; : >/tmp/hold; while test ! -e /tmp/held; do sleep 0.1; done; sync'; }
go_on() { guest_run alpha 'rm -f /tmp/hold'; }
# What the guest reads of the disk, past its own cache; in $sum.
guest_sum() {
  guest_run alpha 'dd if=/dev/xvdb bs=1M iflag=direct 2>/dev/null | sha256sum' 120
  sum="${guest_answer%% *}"
}
rows() {
  guest_run alpha 'cat /tmp/rows'
  count="$guest_answer"
}
# goes_on WHAT: the database commits further rows.
goes_on() {
  local before
  rows
  before="$count"
  for _ in $(seq 60); do
    rows
    [ "$count" -le "$((before + 2))" ] || return 0
    sleep 1
  done
  fail "the database does not go on after $1"
}
params_is() { store_is "/local/domain/0/backend/vbd3/$id/$(vdev_number "$1")/params" "$2"; }

# ---- a snapshot, and its end

xenblk snapshot create alpha xvdb --name one
goes_on "the snapshot"
xenblk snapshot list alpha xvdb
[ -e "$(file disk.one.qcow2)" ] || fail "there is no overlay: $(ls "$(file '')"*)"
xenblk snapshot create alpha xvdb --name two
xenblk snapshot delete alpha xvdb one
goes_on "the deletion"
[ ! -e "$(file disk.one.qcow2)" ] || fail "the overlay of a snapshot that was given up is still there"
xenblk snapshot commit alpha xvdb
goes_on "the merge"
[ ! -e "$(file disk.two.qcow2)" ] || fail "the overlay is still there"

# ---- backups, each at an instant at which the guest knows its disk

declare -A sums
backup_of() {
  hold
  guest_sum
  sums[$1]="$sum"
  xenblk backup alpha xvdb "$(file "$1.qcow2")" --background "${@:2}"
  go_on
  xenblk job wait "vbd3-$id-$(vdev_number xvdb)-backup"
  goes_on "backup $1"
}
# equals_instant NAME: the chain of the backup holds what the guest read then.
equals_instant() {
  qemu-img convert -O raw "$(file "$1.qcow2")" "$(file restored)"
  sum="$(sha256sum "$(file restored)")"
  equal "${sum%% *}" "${sums[$1]}" "what backup $1 holds"
  note "backup $1: $(du -k "$(file "$1.qcow2")" | cut -f 1) KiB"
}
backup_of full
for n in 1 2 3; do backup_of "inc$n" --incremental; done
for name in full inc1 inc2 inc3; do equals_instant "$name"; done
xenblk backup verify "$(file inc3.qcow2)"

# ---- the daemon dies in a backup: that one fails, and the next one is full and says so

allow_words 'died|killed'
background doomed "${XENBLK[@]}" backup alpha xvdb "$(file doomed.qcow2)" --incremental --rate 64K
doomed_pid="$background_pid"
wait_for 60 "the backup to begin" test -e "$(file doomed.qcow2.partial)"
kill -9 "$(pgrep -f "^[^ ]*qemu-storage-daemon .*daemons/$id/")"
process_ends "$doomed_pid" 60 1
goes_on "the death of the daemon"
[ ! -e "$(file doomed.qcow2.partial)" ] || fail "what the failed backup wrote is still there"
backup_of after --incremental
equals_instant after
grep -q 'full' "$E2E_OUT/log.txt" || fail "nothing says that the backup was a full one"

# ---- a limit, which fio meets

guest_run alpha ': >/tmp/verified'
guest_wait alpha "$verify" 300
# Reads a second that fio does in the guest, in $iops.
fio_reads() {
  guest_run alpha "fio --name=limited --filename=/dev/xvdc --readonly --ioengine=io_uring --direct=1 --rw=randread --bs=4k --iodepth=32 --time_based --ramp_time=1 --runtime=$1 --output-format=terse --terse-version=3 >/tmp/fio.txt 2>&1; cut -d ';' -f 6,9 /tmp/fio.txt" 180
  iops="$(awk -F ";" '{ printf "%.2f", $1 / 4 / ($2 / 1000) }' <<<"$guest_answer")"
}
fio_reads 5
note "without a limit: fio got $iops reads a second"
# The limit has to bite, and a request that starts alone costs more than one of 32. Where that is too much for 500 a
# second, it is half of what there is.
limit="$(awk -v free="$iops" 'BEGIN { print (free >= 1000 ? 500 : int(free / 2)) }')"
xenblk limit alpha xvdc --iops "$limit"
fio_reads 20
python3 -c 'import sys; got, limit = map(float, sys.argv[1:]); sys.exit(abs(got - limit) > limit / 20)' "$iops" "$limit" ||
  fail "fio got $iops reads a second, and the limit is $limit"
note "limit of $limit requests a second: fio got $iops"
xenblk limit alpha xvdc --iops 0

# ---- the disks move

qemu-img create -q -f qcow2 "$(file moved.qcow2)" 64M
xenblk mirror alpha xvdb "qcow2:$(file moved.qcow2)"
params_is xvdb "qcow2:$(file moved.qcow2)" || fail "params does not name the new image"
goes_on "the move to another qcow2"
truncate -s 64M "$(file device)"
loop="$(losetup -f --show "$(file device)")"
xenblk mirror alpha xvdb "$loop"
goes_on "the move to a block device"
hold
qemu-img convert -U -f raw -O qcow2 "$loop" "$(file back.qcow2)"
xenblk swap alpha xvdb "qcow2:$(file back.qcow2)"
go_on
goes_on "the move back to a qcow2"
losetup -d "$loop"

# The raw disk enters a storage daemon by itself, moves to a qcow2, to a block device and back to a raw file, and fio writes
# and verifies all the while.
qemu-img create -q -f qcow2 "$(file data.qcow2)" 32M
truncate -s 32M "$(file device)" "$(file data.raw)"
loop="$(losetup -f --show "$(file device)")"
guest_run alpha 'rm -f /tmp/verified; echo 0 >/tmp/passes'
guest_spawn alpha "n=0; while test ! -e /tmp/verified; do $(fio_verify xvdc --size=4M) || exit 1; n=\$((n+1)); echo \$n >/tmp/passes; done"
verify="$spawned"
# verified_again WHAT: fio finishes a pass that began after this call.
verified_again() {
  local before
  guest_run alpha 'cat /tmp/passes'
  before="$guest_answer"
  for _ in $(seq 120); do
    guest_run alpha 'cat /tmp/passes'
    [ "$guest_answer" -le "$((before + 1))" ] || return 0
    sleep 1
  done
  fail "fio does not go on after $1"
}
for target in "qcow2:$(file data.qcow2)" "raw:$loop" "raw:$(file data.raw)"; do
  xenblk mirror alpha xvdc "$target"
  params_is xvdc "$target" || fail "params does not name the new image, $target"
  verified_again "the move to $target"
done
guest_run alpha ': >/tmp/verified'
guest_wait alpha "$verify" 300
guest_run alpha 'dd if=/dev/xvdc bs=1M iflag=direct 2>/dev/null | sha256sum' 120
equal "$(sha256sum <"$(file data.raw)")" "$guest_answer" "the raw file at the end of the moves"
losetup -d "$loop"
note "pauses: $(grep -ohE '(requests|it) waited (for )?[0-9]+ ms' "$E2E_OUT"/*.err "$E2E_OUT/log.txt" | tr '\n' ';')"

# ---- nothing was lost

rows
guest_run alpha ': >/tmp/enough'
guest_wait alpha "$database" 60
guest_run alpha "sqlite3 /mnt/db 'pragma integrity_check; select count(*) >= $count from t;' && umount /mnt && e2fsck -fn /dev/xvdb" 120
equal "$(head -2 <<<"$guest_answer" | tr '\n' ' ')" "ok 1 " "the database's own check, and its rows"
note "$count rows"
guest_run alpha 'dmesg | grep -i "error" || true'
xenblk detach alpha xvdb
xenblk detach alpha xvdc
guest_stop alpha
kill "$serve_pid"
process_ends "$serve_pid" 30 0
qemu-img check -q "$(file back.qcow2)"
