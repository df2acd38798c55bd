# dom0 is its own frontend: the fastest cycle, with no guest to boot. The disk is attached, used and detached twice.
# suites: trixie
# timeout: 300 s
image disk 32M
modprobe xen-blkfront
for round in 1 2; do
  attach_start "attach-$round" 0 "$image" xvdb
  attach_pid="$background_pid"
  wait_for 10 "the disk in dom0" test -b /dev/xvdb
  bash -c "$(fio_verify xvdb --size=4M)"
  xenblk detach 0 xvdb
  process_ends "$attach_pid" 30 0
  wait_for 10 "the disk to go" test ! -e /dev/xvdb
done
store_gone /local/domain/0/device/vbd/51728 || fail "frontend nodes are still there"
