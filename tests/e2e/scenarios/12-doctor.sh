# `doctor` and `attach` in dom0: doctor finds no problem. Without the device node of gntdev, and for a domain that does
# not exist, they name the problem and its fix, the exit status is right, and no node is left behind.
# suites: trixie
# timeout: 300 s
image disk 8M
xenblk doctor
status=0
xenblk attach 77 "$image" xvdb >"$E2E_OUT/no-domain.txt" 2>&1 || status=$?
cat "$E2E_OUT/no-domain.txt"
equal "$status" 3 "status for a domain that does not exist"
mv /dev/xen/gntdev /dev/xen/gntdev.away
for verb in doctor "attach 0 $image xvdb"; do
  status=0
  # shellcheck disable=SC2086 # separate words
  xenblk $verb >"$E2E_OUT/no-gntdev.txt" 2>&1 || status=$?
  cat "$E2E_OUT/no-gntdev.txt"
  [ "$status" -ne 0 ] || fail "$verb succeeded without /dev/xen/gntdev"
  grep -qi 'gntdev' "$E2E_OUT/no-gntdev.txt" || fail "$verb does not name gntdev"
done
mv /dev/xen/gntdev.away /dev/xen/gntdev
store_gone /local/domain/0/backend/vbd3 || fail "nodes are left"
