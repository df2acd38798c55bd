# The peers in the same boot: the kernel's blkback on a loop device, QEMU's qdisk, and this backend, on images alike; the
# same fio jobs on each, as ratios to blkback: requests a second, and dom0's CPU time per request.
# suites: trixie
# timeout: 600 s
for name in blkback qdisk ours; do
  image "$name" 64M
  head -c 64M /dev/zero >"$image"
done
guest_start alpha "disk = ['format=raw,vdev=xvdb,access=rw,backendtype=qdisk,target=$images/$E2E_NAME-qdisk']"
loop="$(losetup -f --show "$images/$E2E_NAME-blkback")"
xl block-attach alpha "phy:$loop,xvdc,w"
attach_start attach alpha "$images/$E2E_NAME-ours" xvdd
attach_pid="$background_pid"

# CPU time of dom0 and fio's count, for one job on one disk: measure DISK RW BS DEPTH
measure() {
  local before after answer
  before="$(dom0_cpu_ms)"
  guest_run alpha "fio --name=m --filename=/dev/$1 --ioengine=io_uring --direct=1 --rw=$2 --bs=$3 --iodepth=$4 --size=64M --time_based --runtime=6 --randrepeat=1 --norandommap --output-format=terse --terse-version=3 2>/dev/null | awk -F';' '{ print \$8 + \$49, \$6 / 4 + \$47 / 4 }'" 60
  after="$(dom0_cpu_ms)"
  answer="${guest_answer%% *}"
  echo "$answer $(((after - before) * 1000 / (answer * 6 + 1)))" >"$E2E_OUT/$1.$2.$3.$4"
}

# The compilers of JavaScript and of the emulator both need some time before they do their best.
for disk in xvdc xvdb xvdd; do for rw in randread randwrite; do measure "$disk" "$rw" 4k 32; done; done
jobs="randread,4k,32 randwrite,4k,32 randread,4k,1 read,128k,8"
for job in $jobs; do
  IFS=, read -r rw bs depth <<<"$job"
  for disk in xvdc xvdb xvdd; do measure "$disk" "$rw" "$bs" "$depth"; done
done
{
  printf '%-22s %22s %22s %22s\n' 'IOPS (ratio)' 'kernel blkback, loop' 'QEMU qdisk' xenblk
  for column in 1 2; do
    [ "$column" = 2 ] && printf '%-22s\n' 'dom0 CPU, us a request (ratio)'
    for job in $jobs; do
      IFS=, read -r rw bs depth <<<"$job"
      paste -d' ' "$E2E_OUT"/{xvdc,xvdb,xvdd}."$rw.$bs.$depth" | awk -v c="$column" -v name="$rw $bs depth $depth" '
        { b = $c; q = $(c + 2); o = $(c + 4); if (b < 1) b = 1
          printf "%-22s %15d (1.00) %15d (%.2f) %15d (%.2f)\n", name, b, q, q / b, o, o / b }'
    done
  done
} | tee "$E2E_OUT/report.txt"
guest_run alpha "$(fio_verify xvdd --size=4M)"
kill -TERM "$attach_pid"
process_ends "$attach_pid" 30 0
xl block-detach alpha xvdc
guest_stop alpha
