# The image is a device-mapper device that fails in its middle, used with O_DIRECT. The guest gets an error for exactly
# the blocks that fail, read or written. Its other blocks, and a second guest served by the same process, get no error.
# Once the device works again, so does the guest's disk.
# suites: trixie
# short: none
# timeout: 500 s
modprobe dm-mod
export DM_DISABLE_UDEV=1
image backing 16M
image neighbour 16M
neighbour="$image"
head -c 16M /dev/urandom >"$images/$E2E_NAME-backing"
loop="$(losetup -f --show "$images/$E2E_NAME-backing")"
# Sectors 8192 to 8223 fail: four blocks of 4 KiB, the first of them block 1024.
failing_table="0 8192 linear $loop 0
8192 32 error
8224 24544 linear $loop 8224"
whole_table="0 32768 linear $loop 0"
dmsetup create faulty --noudevsync <<<"$failing_table"

guest_start alpha
id="$(domid alpha)"
serve_start serve --cache none
serve_pid="$background_pid"
nodes_write alpha /dev/mapper/faulty xvdb
nodes_write alpha "$neighbour" xvdc
wait_for 60 "the disk" both_connected "$id" xvdb
wait_for 60 "the neighbour" both_connected "$id" xvdc
# The kernels of dom0 and of the guest report the errors. They are expected, on this disk only.
allow_words 'I/O error,? (on )?dev (xvdb|dm-0)\b'

load_starts alpha xvdc
# bad_blocks read|write: prints which of the blocks 1016 to 1039 fail in the guest, one request each.
bad_blocks() {
  local dd='if=/dev/xvdb of=/dev/null iflag=direct skip'
  [ "$1" = read ] || dd='if=/dev/zero of=/dev/xvdb oflag=direct seek'
  guest_run alpha "for b in \$(seq 1016 1039); do dd $dd=\$b bs=4k count=1 2>/dev/null || printf '%s ' \$b; done" 120
  bad="${guest_answer% }"
}
for direction in read write read; do
  bad_blocks "$direction"
  equal "$bad" "1024 1025 1026 1027" "blocks where $direction fails"
done
# Long requests that touch the range fail; those next to it do not.
guest_fails alpha 'dd if=/dev/xvdb of=/dev/null iflag=direct bs=128k skip=32 count=1'
guest_run alpha 'dd if=/dev/xvdb of=/dev/null iflag=direct bs=128k count=32'
guest_run alpha "$(fio_verify xvdb --size=3M)"

# The same process serves the same disk after the device is repaired.
dmsetup suspend faulty
dmsetup load faulty <<<"$whole_table"
dmsetup resume faulty
bad_blocks read
equal "$bad" "" "blocks that fail on the mended device"
guest_run alpha "$(fio_verify xvdb)"
! load_has_ended || fail "the neighbour's load ended early"
load_ends 120
kill -0 "$serve_pid" || fail "serve ended"

kill -TERM "$serve_pid"
process_ends "$serve_pid" 30 0
guest_stop alpha
nodes_remove "$id" xvdb
nodes_remove "$id" xvdc
dmsetup remove faulty --noudevsync
losetup -d "$loop"
