# The image of one guest is a device-mapper device that is suspended under load, so its I/O hangs in dom0's kernel. The
# guest next to it reads on. `serve` hears SIGTERM, and a new `serve` takes the other guest's disk over while the first
# one may still hang. After the resume everything continues, and the data is right.
# suites: trixie
# timeout: 600 s
modprobe dm-mod
export DM_DISABLE_UDEV=1
image backing 16M
image neighbour 16M
neighbour="$image"
loop="$(losetup -f --show "$images/$E2E_NAME-backing")"
dmsetup create slow --noudevsync <<<"0 32768 linear $loop 0"
# The kernel may report tasks that hang for long.
allow_words 'blocked for more than|hung_task|Call Trace'

guest_start alpha
guest_start beta
alpha="$(domid alpha)" beta="$(domid beta)"
serve_start first
first="$background_pid"
nodes_write alpha /dev/mapper/slow xvdb
nodes_write beta "$neighbour" xvdb
wait_for 60 "the disk of alpha" both_connected "$alpha" xvdb
wait_for 60 "the disk of beta" both_connected "$beta" xvdb
load_starts alpha xvdb
probe_starts beta xvdb
sleep 5
dmsetup suspend --noflush --nolockfs slow
sleep 10
probe_ends 1
worst_hung="$pause_worst"
[ "$worst_hung" -lt 5000 ] || fail "while the disk of alpha hung, a read of beta took $worst_hung ms"

# SIGTERM is heard, and a new process serves beta while alpha's disk still hangs.
since="$SECONDS"
kill -TERM "$first"
wait_for 2 "serve to say that it ends" grep -q 'ending: SIGTERM' "$E2E_OUT/first.err"
serve_start second
second="$background_pid"
connected() { grep -q 'connected:' "$E2E_OUT/second.err"; }
wait_for 30 "the next serve to take over the disk of beta" connected
guest_run beta 'dd if=/dev/xvdb of=/dev/null bs=4k count=64 iflag=direct' 20
taken_over=$((SECONDS - since))
hung="had ended"
process_ended "$first" || hung="still hung in the kernel"
note "SIGTERM: the neighbour was served again after $taken_over s; the first process $hung"
echo "a device-mapper disk suspended under load: the neighbour's slowest read $worst_hung ms; after SIGTERM it was served again within $taken_over s, while the first process $hung" >"$E2E_OUT/report.txt"

dmsetup resume slow
process_status "$first" 40
wait_for 60 "the disk of alpha to be served again" grep -q "$alpha/51728.*connected:\|alpha.*connected:" "$E2E_OUT/second.err"
! load_has_ended || fail "the load of alpha ended early"
load_ends 180
guest_run alpha "$(fio_verify xvdb --size=4M)"
kill -TERM "$second"
process_ends "$second" 40 0
guest_stop alpha
guest_stop beta
nodes_remove "$alpha" xvdb
nodes_remove "$beta" xvdb
dmsetup remove slow --noudevsync
losetup -d "$loop"
