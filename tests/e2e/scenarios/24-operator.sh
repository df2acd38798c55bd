# What an operator does with a running serve: a disk is attached in the background, and its name printed; list, show,
# top and events tell about it; top and fio in the guest agree within 5 %; a guest without a driver for disks gets none,
# and the reason is said; detach of a mounted disk says who holds it. Nothing is left behind.
# suites: trixie
# short: trixie
# timeout: 600 s
image disk 64M
disk="$image"
guest_start alpha
id="$(domid alpha)"
serve_start serve
serve_pid="$background_pid"
background events "${XENBLK[@]}" events --json
events_pid="$background_pid"

# rates_are_above N: list sees so many reads a second of the disk.
rates_are_above() {
  "${XENBLK[@]}" list alpha --json | python3 -c \
    'import json, sys; sys.exit(json.load(sys.stdin)[0]["rates"]["r/s"] < float(sys.argv[1]))' "$1"
}

attached="$("${XENBLK[@]}" attach alpha "$disk" --background --timeout 300)"
equal "$attached" xvda "what attach --background prints"
both_connected "$id" xvda || fail "attach --background returned before the guest had the disk"
guest_run alpha 'test -b /dev/xvda'

# fio asks for 25 reads a second, so that an emulated guest on a busy machine keeps them up; top looks at 20 s in the
# middle.
guest_run alpha 'dd if=/dev/urandom of=/dev/xvda bs=64k count=1024 conv=fsync 2>/dev/null' 60
guest_spawn alpha 'fio --name=steady --filename=/dev/xvda --readonly --ioengine=io_uring --direct=1 --rw=randread --bs=4k --rate_iops=25 --time_based --runtime=60 --output-format=terse --terse-version=3 >/tmp/fio.txt 2>&1'
load="$spawned"
wait_for 30 "fio to read" rates_are_above 15
"${XENBLK[@]}" top --json --batch -n 1 -d 20 >"$E2E_OUT/top.json"
"${XENBLK[@]}" list >"$E2E_OUT/list.txt"
"${XENBLK[@]}" show alpha xvda >"$E2E_OUT/show.txt"
guest_wait alpha "$load" 120
# KiB read, and milliseconds: fio's own rate has no fraction.
guest_run alpha 'cut -d ";" -f 6,9 /tmp/fio.txt'
fio_iops="$(awk -F ";" '{ printf "%.2f", $1 / 4 / ($2 / 1000) }' <<<"$guest_answer")"
top_iops="$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["disks"][0]["r/s"])' "$E2E_OUT/top.json")"
python3 -c 'import sys; fio, top = map(float, sys.argv[1:]); sys.exit(abs(fio - top) > 0.05 * fio)' "$fio_iops" "$top_iops" ||
  fail "top says $top_iops reads a second, fio $fio_iops"
cat "$E2E_OUT/list.txt" "$E2E_OUT/show.txt"
grep -q 'alpha.*xvda' "$E2E_OUT/list.txt" || fail "list does not name the disk"
note "top $top_iops reads/s, fio $fio_iops"

# A guest that has no driver: attach gives up after its time, says why, and leaves nothing.
image unseen 8M
guest_start beta 'extra = "console=hvc0 mitigations=off nokaslr no_timer_check loglevel=7 panic=1 e2e.modules=ext4"'
status=0
"${XENBLK[@]}" attach beta "$image" xvdb --background --timeout 8 >"$E2E_OUT/unseen.txt" 2>&1 || status=$?
cat "$E2E_OUT/unseen.txt"
equal "$status" 4 "the status of an attach that no driver answers"
grep -qi 'Initialising' "$E2E_OUT/unseen.txt" || fail "attach does not say in what state the guest's driver is"
store_gone "/local/domain/0/backend/vbd3/$(domid beta)" || fail "backend nodes of beta are still there"
store_gone "/local/domain/$(domid beta)/device/vbd/51728" || fail "frontend nodes of beta are still there"
guest_stop beta

# A mounted disk of a paused guest: detach says who holds it. Linux that runs lets go of it, and its file system fails.
allow_words 'I/O error,? (on )?dev(ice)? xvda\b|EXT4-fs( [a-z]+)? \((device )?xvda\): .*I/O error|JBD2: I/O error .*xvda-8'
guest_run alpha 'mkfs.ext4 -q /dev/xvda && mount /dev/xvda /mnt && echo kept >/mnt/file && sync' 60
xl pause alpha
status=0
"${XENBLK[@]}" detach alpha xvda --timeout 3 >"$E2E_OUT/detach.txt" 2>&1 || status=$?
cat "$E2E_OUT/detach.txt"
equal "$status" 4 "the status of a detach that timed out"
grep -q 'alpha' "$E2E_OUT/detach.txt" || fail "detach does not say who holds the disk"
xl unpause alpha
xenblk detach alpha xvda --timeout 100
wait_for 60 "the nodes to go" store_gone "/local/domain/0/backend/vbd3/$id"

kill -TERM "$events_pid"
process_status "$events_pid" 30
for event in connected removed; do
  grep -q "$event" "$E2E_OUT/events.log" || fail "events does not tell that a disk was $event"
done
kill -TERM "$serve_pid"
process_ends "$serve_pid" 30 0
guest_stop alpha
