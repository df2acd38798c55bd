# fio in the guest makes random writes at depth 32 with fsyncs, reads them back and verifies them: each grant mode with
# each storage engine. The second suite runs only the pairs where its older kernel may behave differently: Linux 6.1's
# io_uring holds pages of the guest for longer than the I/O.
# timeout: 900 s
guest_start alpha
xenblk attach --help >"$E2E_OUT/help.txt"
pairs=""
for engine in file uring; do
  for grants in copy map map-each persistent; do
    if grep -q "$engine" "$E2E_OUT/help.txt" && grep -q "$grants" "$E2E_OUT/help.txt"; then pairs="$pairs $engine,$grants"; fi
  done
done
if [ "$E2E_SUITE" = bookworm ]; then pairs="file,persistent uring,map uring,persistent"; fi
for pair in $pairs; do
  image "${pair/,/-}" 16M
  attach_start "${pair/,/-}" alpha "$image" xvdb --engine "${pair%,*}" --grants "${pair#*,}"
  attach_pid="$background_pid"
  guest_run alpha "$(fio_verify xvdb)" 120
  kill -TERM "$attach_pid"
  process_ends "$attach_pid" 30 0
  guest_run alpha 'test ! -e /dev/xvdb'
done
note "engine,grants: $(echo $pairs)"
guest_stop alpha
