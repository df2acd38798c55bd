# Random writes at depth 32 with fsyncs, read back and verified by fio in the guest: each grant strategy with each
# storage engine that the command offers.
# timeout: 420 s
guest_start alpha
engines=file
if xenblk attach --help | grep -q uring; then engines="$engines uring"; fi
strategies="copy map map-each"
if xenblk attach --help | grep -q 'persistent'; then strategies="$strategies persistent"; fi
for engine in $engines; do
  for grants in $strategies; do
    image "$engine-$grants" 16M
    attach_start "$engine-$grants" alpha "$image" xvdb --engine "$engine" --grants "$grants"
    attach_pid="$background_pid"
    guest_run alpha "$(fio_verify xvdb)" 120
    kill -TERM "$attach_pid"
    process_ends "$attach_pid" 30 0
    guest_run alpha 'test ! -e /dev/xvdb'
  done
done
note "engines $engines, grants $strategies"
guest_stop alpha
