# One process serves disks of two guests under load. One guest is destroyed in the middle of its I/O. The other
# continues without an error, and no mapping, port or node of the dead guest is left.
# suites: trixie
# timeout: 500 s
image a 16M
a="$image"
image b 16M
b="$image"
guest_create alpha
guest_start beta
guest_ready alpha
a_id="$(domid alpha)" b_id="$(domid beta)"
serve_start serve
serve_pid="$background_pid"
nodes_write alpha "$a" xvdb
nodes_write beta "$b" xvdb
wait_for 30 "alpha's disk" both_connected "$a_id" xvdb
wait_for 30 "beta's disk" both_connected "$b_id" xvdb
only_b="$(mappings "$serve_pid")"
say "mappings with two rings: $only_b, ports: $(ports_to "$a_id") and $(ports_to "$b_id")"

guest_spawn alpha "$(fio_verify xvdb --time_based --runtime=120)"
guest_spawn beta "$(fio_verify xvdb --loops=2)"
load="$spawned"
sleep 6
say "destroying alpha"
xl destroy alpha
wait_for 20 "alpha to vanish altogether" domain_gone "$a_id"
wait_for 20 "alpha's ports to be unbound" no_ports_to "$a_id"
guest_wait beta "$load" 150
wait_for 20 "alpha's ring to be unmapped" mappings_below "$serve_pid" "$only_b"
nodes_remove "$a_id" xvdb

# The other guest still reads and writes.
guest_run beta "$(fio_verify xvdb --size=2M)"
kill -TERM "$serve_pid"
process_ends "$serve_pid" 30 0
guest_stop beta
nodes_remove "$b_id" xvdb
