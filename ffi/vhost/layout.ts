/**
 * How the shared memory of a disk is divided: one partition per virtqueue, each with two areas for rings, the headers and
 * status bytes of requests, and the buffers. Rings are laid out as in Linux's virtio_ring.h (split virtqueue), requests as
 * in virtio_blk.h.
 */

import { MOST_BUFFER_BYTES } from "../../lib/storage/disk.ts";
import { PAGE_BYTES } from "../../lib/units.ts";

/** Descriptors of a virtqueue: the most that QEMU allows. A request of one piece of memory takes three. */
export const QUEUE_SIZE = 1024;

/** Bytes of struct vring_desc. */
const DESCRIPTOR_BYTES = 16;

/** Offsets within the area of a ring. */
export const DESCRIPTORS_AT = 0;
export const AVAIL_AT: number = QUEUE_SIZE * DESCRIPTOR_BYTES;
/** struct vring_avail takes 6 + 2 * QUEUE_SIZE bytes. */
export const USED_AT: number = AVAIL_AT + PAGE_BYTES;
/** struct vring_used takes 6 + 8 * QUEUE_SIZE bytes. */
export const RING_BYTES: number = USED_AT + 3 * PAGE_BYTES;

/** Two areas: after a reconnect the queue goes on in the other one, while its thread still reads the old one. */
export const RING_AREAS = 2;

/** The header and the status byte of a request, by the first descriptor of its chain. */
export const REQUESTS_AT: number = RING_AREAS * RING_BYTES;
export const REQUEST_BYTES = 64;
/** Offsets within them: struct virtio_blk_outhdr, struct virtio_blk_discard_write_zeroes, struct virtio_blk_inhdr. */
export const HEADER_BYTES = 16;
export const RANGE_AT = 16;
export const RANGE_BYTES = 16;
export const STATUS_AT = 32;

export const BUFFERS_AT: number = REQUESTS_AT + QUEUE_SIZE * REQUEST_BYTES;
export const PARTITION_BYTES: number = BUFFERS_AT + MOST_BUFFER_BYTES;

/**
 * The address of the memory's first byte in descriptors and messages, as its high word; the low word of any address is
 * its offset. It is made up, so that the daemon does not learn where the memory is mapped here.
 */
export const BASE_HIGH = 1;
/** The same as a whole. */
export const BASE_ADDRESS: number = BASE_HIGH * 2 ** 32;
/** Most queues of a disk, so that offsets fit in 32 bits. */
export const MOST_QUEUES = 256;
