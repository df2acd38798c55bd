# fio in the guest makes random writes at depth 32 with fsyncs, reads them back and verifies them: each grant mode with
# each storage engine. Without XENBLK_E2E_FULL=1, and on the second suite, only the pairs whose use of the guest's pages
# differs most: Linux 6.1's io_uring holds them for longer than the I/O.
# short: trixie
# timeout: 900 s
guest_start alpha
xenblk attach --help >"$E2E_OUT/help.txt"
pairs=""
for engine in file uring; do
  for grants in copy map map-each persistent; do
    if grep -q "$engine" "$E2E_OUT/help.txt" && grep -q "$grants" "$E2E_OUT/help.txt"; then pairs="$pairs $engine,$grants"; fi
  done
done
if [ "$E2E_SUITE" = bookworm ] || [ "${E2E_FULL:-}" != 1 ]; then pairs="file,map-each uring,map uring,persistent"; fi
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
