# Compares the peers in one boot, on equal images: the kernel's blkback on a loop device, QEMU's qdisk, the C reference of
# the bench, and this backend in its grant modes. Each runs the same fio jobs, in alternating rounds after a warm-up
# round. The report shows medians relative to blkback, and to the C reference: requests per second, and dom0's CPU time
# per request. XENBLK_E2E_FULL=1 adds modes, jobs and rounds.
# suites: trixie
# short: none
# timeout: 3600 s
rounds=2 seconds=2
ours="uring,copy uring,persistent"
jobs="randread,4k,32 randwrite,4k,32"
if [ "${E2E_FULL:-}" = 1 ]; then
  rounds=5 seconds=5
  ours="uring,copy uring,map uring,persistent file,copy file,map file,persistent"
  jobs="randread,4k,32 randwrite,4k,32 randread,4k,1 read,128k,8"
fi

# full_image NAME: creates an image without holes, so that no engine can skip the work.
full_image() {
  image "$1" 64M
  head -c 64M /dev/zero >"$image"
}
full_image blkback
full_image qdisk
guest_start alpha "disk = ['format=raw,vdev=xvdb,access=rw,backendtype=qdisk,target=$images/$E2E_NAME-qdisk']"
id="$(domid alpha)"
loop="$(losetup -f --show "$images/$E2E_NAME-blkback")"
xl block-attach alpha "phy:$loop,xvdc,w"

# The C reference, which serves one device. It reads and writes through the page cache, as ours does here.
full_image reference
reference="/local/domain/0/backend/vbdc/$id/$(vdev_number xvdd)"
reference_connected() {
  process_ended "$reference_pid" || { store_is "$reference/state" 4 && frontend_state_is "$id" xvdd 4; }
}
nodes_write alpha "$image" xvdd w vbdc
background reference /payload/reference "$reference" "$image" cached
reference_pid="$background_pid"
wait_for 60 "the C reference to connect" reference_connected
if process_ended "$reference_pid"; then
  cat "$E2E_OUT/reference.err"
  fail "the C reference ended early"
fi

disks="xvdc xvdb xvdd"
declare -A names=([xvdc]=blkback [xvdb]=qdisk [xvdd]="C reference")
letters=efghij
pids=""
for pair in $ours; do
  full_image "${pair/,/-}"
  disk="xvd${letters:0:1}" letters="${letters:1}"
  attach_start "${pair/,/-}" alpha "$image" "$disk" --engine "${pair%,*}" --grants "${pair#*,}"
  pids="$pids $background_pid"
  disks="$disks $disk"
  names[$disk]="$pair"
done

# measure ROUND DISK RW BS DEPTH: runs one job and adds a line to figures.txt. The guest reports the job's start and end
# in xenstore, so dom0 does not have to poll while it measures.
measure() {
  local node="/local/domain/$id/data/e2e/job" began="" ended="" runtime="$seconds" watcher events answer word
  # The JavaScript compiler and the emulator need a while to reach full speed.
  if [ "$1" = 0 ]; then runtime=$((4 * seconds)); fi
  xenstore-rm "$node" 2>/dev/null || true
  exec {events}< <(exec xenstore-watch "$node")
  watcher=$!
  guest_spawn alpha "fio --name=m --filename=/dev/$2 --ioengine=io_uring --direct=1 --rw=$3 --bs=$4 --iodepth=$5 --size=64M --time_based --runtime=$runtime --randrepeat=1 --norandommap --exec_prerun='xenstore-write data/e2e/job began' --exec_postrun='xenstore-write data/e2e/job ended' --output-format=terse --terse-version=3 2>/dev/null | awk -F';' 'NF > 50 { print \$8 + \$49 }'"
  while [ -z "$ended" ]; do
    read -r -t 400 -u "$events" || fail "the guest did not report the end of its job"
    word="$(store "$node")"
    if [ "$word" = began ] && [ -z "$began" ]; then began="$(dom0_cpu_ms)"; fi
    if [ "$word" = ended ]; then ended="$(dom0_cpu_ms)"; fi
  done
  kill "$watcher"
  exec {events}<&-
  guest_wait alpha "$spawned" 60
  answer="${guest_answer%%.*}"
  # dom0 missed the start of the job: nothing was measured.
  if [ -z "$began" ]; then
    say "no figure of $*"
    return 0
  fi
  echo "$1 $2 $3,$4,$5 $answer $(((ended - began) * 1000 / (answer * runtime + 1)))" >>"$E2E_OUT/figures.txt"
}

for round in $(seq 0 "$rounds"); do
  for job in $jobs; do
    for disk in $disks; do measure "$round" "$disk" ${job//,/ }; done
  done
done

# median JOB DISK COLUMN: the median over all rounds except the warm-up.
median() {
  awk -v job="$1" -v disk="$2" -v column="$3" '$1 > 0 && $2 == disk && $3 == job { print $column }' "$E2E_OUT/figures.txt" |
    sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

# table BASE TITLE COLUMN: prints the medians, each with its ratio to that of the disk BASE.
table() {
  local disk job base value
  printf '%-24s' "$2"
  for disk in $disks; do printf '%23s' "${names[$disk]}"; done
  echo
  for job in $jobs; do
    base="$(median "$job" "$1" "$3")"
    printf '%-24s' "${job//,/ } deep"
    for disk in $disks; do
      value="$(median "$job" "$disk" "$3")"
      awk -v v="$value" -v b="$base" 'BEGIN { printf "%14d (%6.2f)", v, (b > 0 ? v / b : 0) }'
    done
    echo
  done
}
{
  for base in xvdc xvdd; do
    echo "Medians, and their ratios to those of ${names[$base]}"
    table "$base" 'requests per second' 4
    table "$base" 'dom0 CPU us per request' 5
  done
} | tee "$E2E_OUT/report.txt"

for pid in $pids; do kill -TERM "$pid"; done
for pid in $pids; do process_ends "$pid" 60 0; done
# As a toolstack asks for it: the guest closes, and the reference ends with it.
xenstore-write "$reference/state" 5
process_ends "$reference_pid" 60 0
nodes_remove "$id" xvdd vbdc
xl block-detach alpha xvdc
guest_stop alpha
