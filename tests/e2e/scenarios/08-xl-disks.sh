# xl handles our disks: one in the guest's configuration and one by `xl block-attach`, both backendtype=tap with our
# script; then `xl block-list`, `xl block-detach` and `xl destroy`. No node is left behind.
# suites: trixie
# timeout: 500 s
image first 16M
first="$image"
image second 16M
second="$image"
serve_start serve
serve_pid="$background_pid"
guest_start alpha "disk = ['$(tap_disk "$first" xvda)']"
id="$(domid alpha)"
both_connected "$id" xvda || wait_for 30 "the configured disk" both_connected "$id" xvda
guest_run alpha "$(fio_verify xvda --size=4M)"

xl block-attach alpha "$(tap_disk "$second" xvdb)"
wait_for 30 "the attached disk" both_connected "$id" xvdb
guest_run alpha "$(fio_verify xvdb --size=4M)"
xl block-list alpha | tee "$E2E_OUT/block-list.txt"
equal "$(awk 'NR > 1 && $4 == 4' "$E2E_OUT/block-list.txt" | wc -l)" 2 "disks that xl block-list shows as Connected"
equal "$(xenblk list alpha --no-headings | grep -c Connected)" 2 "disks that our list shows"

xl block-detach alpha xvdb
store_gone "/local/domain/0/backend/vbd3/$id/51728" || fail "xl block-detach left backend nodes"
guest_run alpha 'test ! -e /dev/xvdb && test -b /dev/xvda'
guest_spawn alpha "$(fio_verify xvda --time_based --runtime=60)"
sleep 3
xl destroy alpha
wait_for 20 "alpha to vanish" domain_gone "$id"
wait_for 20 "backend nodes to be gone" store_gone "/local/domain/0/backend/vbd3/$id"
wait_for 20 "ports to be unbound" no_ports_to "$id"
equal "$(mappings "$serve_pid")" 0 "mappings left in serve"
kill -TERM "$serve_pid"
process_ends "$serve_pid" 20 0
