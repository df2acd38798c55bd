# blkfront of a guest with two virtual CPUs asks for 16-page rings, several queues and long requests. It gets what the
# backend offers, and the data is right.
# suites: trixie
# short: none
# timeout: 500 s
image disk 32M
GUEST_ARGUMENTS="xen_blkfront.max_ring_page_order=4 xen_blkfront.max_queues=4 xen_blkfront.max_indirect_segments=256"
guest_start alpha "vcpus = 2"
id="$(domid alpha)"
attach_start attach alpha "$image" xvdb
attach_pid="$background_pid"
fe="/local/domain/$id/device/vbd/51728" be="/local/domain/0/backend/vbd3/$id/51728"
guest_run alpha "$(fio_verify xvdb --numjobs=2 --offset_increment=12M --bsrange=4k-256k)" 120
note "ring-page-order $(store "$fe/ring-page-order"), queues $(store "$fe/multi-queue-num-queues"), indirect segments $(store "$be/feature-max-indirect-segments")"
kill -TERM "$attach_pid"
process_ends "$attach_pid" 30 0
guest_stop alpha
