# A guest with one of our disks is rebooted through xl (a new domain each time), and saved and restored. The disk comes
# back with its data.
# suites: trixie
# timeout: 500 s
image disk 16M
serve_start serve
serve_pid="$background_pid"
guest_start alpha "disk = ['$(tap_disk "$image" xvda)']" 'on_reboot = "restart"'
id="$(domid alpha)"
write='dd if=/dev/urandom of=/tmp/pattern bs=64k count=16 2>/dev/null; dd if=/tmp/pattern of=/dev/xvda bs=64k conv=fsync 2>/dev/null; sha256sum /tmp/pattern'
guest_run alpha "$write"
sum="$(echo "$guest_answer" | cut -d' ' -f1)"
check="echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/xvda bs=64k count=16 2>/dev/null | sha256sum | grep -q $sum"

say "rebooting"
xl reboot -F alpha || guest_spawn alpha 'reboot -f'
wait_for 60 "a new domain" new_domain alpha "$id"
id="$(domid alpha)"
guest_ready alpha
guest_run alpha "$check"

say "saving"
guest_spawn alpha 'for i in $(seq 600); do dd if=/dev/xvda of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null || exit 1; sleep 0.1; done'
timeout 120 xl save alpha /scratch/alpha.save
wait_for 20 "the saved domain to be gone" domain_gone "$id"
wait_for 20 "its backend nodes to be gone" store_gone "/local/domain/0/backend/vbd3/$id"
say "restoring"
timeout 120 xl restore /scratch/alpha.save
rm /scratch/alpha.save
id="$(domid alpha)"
wait_for 30 "the disk after the restore" both_connected "$id" xvda
guest_adopt alpha
guest_run alpha "$check" 60
guest_run alpha "$(fio_verify xvda --size=2M)" 60
guest_stop alpha
wait_for 20 "backend nodes to be gone" store_gone "/local/domain/0/backend/vbd3/$id"
kill -TERM "$serve_pid"
process_ends "$serve_pid" 20 0
