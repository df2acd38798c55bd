/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The reference backend of the bench: one disk of one guest, over the Xen libraries and io_uring, with the ring rules that
 * the product follows (a private copy of each request, the notify rule, the final check, grants copied in one call per
 * pass). It shows how fast such a backend can be. It has no journal, no limits, no polling, one thread and one queue.
 * Usage: reference BACKEND-DIRECTORY IMAGE cached|direct
 */
#define _GNU_SOURCE
#define __XEN_INTERFACE_VERSION__ 0x00040400 /* xen_mb() and so on, not mb() */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>

#define xen_mb() atomic_thread_fence(memory_order_seq_cst)
#define xen_rmb() atomic_thread_fence(memory_order_acquire)
#define xen_wmb() atomic_thread_fence(memory_order_release)
#include <xen/grant_table.h>
#include <xen/io/blkif.h>
#include <xen/io/protocols.h>
#include <xen/io/xenbus.h>

enum { PAGE = 4096, SECTOR = 512, MOST_PAGES = 16, MOST_SLOTS = 512, MOST_SEGMENTS = 32 };
enum { BATCH = MOST_SLOTS * MOST_SEGMENTS, ENTRIES = 2 * MOST_SLOTS };
/* User data of submissions that are no request. */
enum { EVENTS = MOST_SLOTS, STORE };

/* A request, from being taken to being answered. */
struct slot {
    union { blkif_request_t request; blkif_request_indirect_t indirect; }; /* the private copy */
    struct blkif_request_segment segments[MOST_SEGMENTS];
    uint8_t *data;
    uint64_t offset, id;
    uint32_t count, length, done, first_copy, copies;
    int16_t status;
    uint8_t operation; /* of an indirect request, what it asks for */
};
struct list { uint32_t count; uint16_t slot[MOST_SLOTS]; };

static struct {
    struct xs_handle *store;
    xengnttab_handle *grants;
    xenevtchn_handle *events;
    evtchn_port_t port;
    const char *directory;
    char *front;
    uint32_t guest;
    blkif_back_ring_t ring;
    int file, reads_by_call, writes_by_call, closing;
    uint64_t sectors;
    struct slot slots[MOST_SLOTS];
    struct list free, taken, indirect, batched, ready, completed, finished;
    xengnttab_grant_copy_segment_t batch[BATCH];
    uint32_t batch_length, in_flight;
} back;

static struct {
    int fd;
    _Atomic uint32_t *sq_tail, *cq_head, *cq_tail;
    uint32_t sq_mask, cq_mask, tail, submitted;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
} uring;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fputs("reference: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    exit(1);
}

static void *pages(size_t bytes, int fd, uint64_t offset)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED | MAP_POPULATE;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (memory == MAP_FAILED) fail("Cannot map memory: %m");
    return memory;
}

static void push(struct list *list, struct slot *slot) { list->slot[list->count++] = slot - back.slots; }

/* ---- io_uring ---- */

static void uring_open(void)
{
    struct io_uring_params params = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN };
    uring.fd = syscall(SYS_io_uring_setup, ENTRIES, &params);
    if (uring.fd < 0) fail("Cannot make an io_uring: %m");
    size_t bytes = params.sq_off.array + params.sq_entries * sizeof(uint32_t); /* it is behind the completions */
    uint8_t *ring = pages(bytes, uring.fd, IORING_OFF_SQ_RING);
    uring.sqes = pages(params.sq_entries * sizeof *uring.sqes, uring.fd, IORING_OFF_SQES);
    uring.sq_tail = (void *)(ring + params.sq_off.tail);
    uring.cq_head = (void *)(ring + params.cq_off.head), uring.cq_tail = (void *)(ring + params.cq_off.tail);
    uring.sq_mask = params.sq_entries - 1, uring.cq_mask = params.cq_entries - 1;
    uring.cqes = (void *)(ring + params.cq_off.cqes);
    uint32_t *array = (void *)(ring + params.sq_off.array);
    for (uint32_t i = 0; i < params.sq_entries; i++) array[i] = i;
    if (syscall(SYS_io_uring_register, uring.fd, IORING_REGISTER_FILES, &back.file, 1) < 0)
        fail("Cannot register the image: %m");
}

static struct io_uring_sqe *prepare(uint8_t opcode, int fd, uint64_t data)
{
    struct io_uring_sqe *sqe = &uring.sqes[uring.tail++ & uring.sq_mask];
    *sqe = (struct io_uring_sqe){ .opcode = opcode, .fd = fd, .user_data = data };
    return sqe;
}

/* Submits what was prepared, and waits for one completion. */
static void enter(void)
{
    atomic_store_explicit(uring.sq_tail, uring.tail, memory_order_release);
    long count = syscall(SYS_io_uring_enter, uring.fd, uring.tail - uring.submitted, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    if (count >= 0) uring.submitted += count;
    else if (errno != EINTR && errno != EAGAIN && errno != EBUSY) fail("Cannot submit I/O: %m");
}

static void watch(int fd, uint64_t what, uint32_t flags)
{
    struct io_uring_sqe *sqe = prepare(IORING_OP_POLL_ADD, fd, what);
    sqe->poll32_events = 1; /* POLLIN */
    sqe->len = flags;
}

/* ---- the disk ---- */

static void disk_open(const char *path, int direct)
{
    struct statfs file_system;
    back.file = open(path, O_RDWR | (direct ? O_DIRECT : 0));
    off_t bytes = back.file < 0 ? -1 : lseek(back.file, 0, SEEK_END);
    if (bytes < 0 || fstatfs(back.file, &file_system) < 0) fail("Cannot open %s: %m", path);
    back.sectors = bytes / SECTOR;
    /* Where a submission is carried out by a kernel thread, a call is faster. */
    back.reads_by_call = !direct && file_system.f_type == TMPFS_MAGIC;
    back.writes_by_call = !direct;
}

/* Takes the result of a call or submission. True: the rest must be transferred, or all of it tried again. */
static int advance(struct slot *slot, int result)
{
    int flush = slot->operation == BLKIF_OP_FLUSH_DISKCACHE;
    if (result == -EAGAIN || result == -EINTR) return 1;
    if (result > 0 && (slot->done += result) < slot->length) return 1;
    if (result < 0 || (result == 0 && !flush)) slot->status = BLKIF_RSP_ERROR; /* 0: the image was truncated */
    push(&back.completed, slot);
    return 0;
}

static int start_one(struct slot *slot)
{
    int flush = slot->operation == BLKIF_OP_FLUSH_DISKCACHE, reads = slot->operation == BLKIF_OP_READ;
    uint8_t *data = slot->data + slot->done;
    size_t length = slot->length - slot->done;
    off_t offset = slot->offset + slot->done;
    if (!flush && (reads ? back.reads_by_call : back.writes_by_call)) {
        ssize_t done = reads ? pread(back.file, data, length, offset) : pwrite(back.file, data, length, offset);
        return advance(slot, done < 0 ? -errno : done);
    }
    uint8_t opcode = flush ? IORING_OP_FSYNC : reads ? IORING_OP_READ : IORING_OP_WRITE;
    struct io_uring_sqe *sqe = prepare(opcode, 0, slot - back.slots);
    sqe->flags = IOSQE_FIXED_FILE;
    back.in_flight++;
    if (flush) sqe->fsync_flags = IORING_FSYNC_DATASYNC;
    else sqe->addr = (uintptr_t)data, sqe->len = length, sqe->off = offset;
    return 0;
}

/* ---- requests ---- */

static void finish(struct slot *slot, int status)
{
    slot->status = status;
    push(&back.finished, slot);
}

/* Adds the copies of a request's data to the batch. */
static void add_copies(struct slot *slot)
{
    uint8_t *local = slot->data;
    int reads = slot->operation == BLKIF_OP_READ;
    slot->first_copy = back.batch_length;
    for (uint32_t i = 0; i < slot->count; i++) {
        const struct blkif_request_segment *segment = &slot->segments[i];
        xengnttab_grant_copy_segment_t *copy = &back.batch[back.batch_length++];
        union xengnttab_copy_ptr theirs = { .foreign = { segment->gref, segment->first_sect * SECTOR, back.guest } };
        union xengnttab_copy_ptr ours = { .virt = local };
        copy->source = reads ? ours : theirs;
        copy->dest = reads ? theirs : ours;
        copy->len = (segment->last_sect - segment->first_sect + 1) * SECTOR;
        copy->flags = reads ? GNTCOPY_dest_gref : GNTCOPY_source_gref;
        copy->status = GNTST_general_error;
        local += copy->len;
    }
    slot->copies = slot->count;
    push(&back.batched, slot);
}

/* Reads the private copy. Its segments may still be in the guest's memory. */
static void decode(struct slot *slot)
{
    slot->status = BLKIF_RSP_OKAY;
    slot->done = slot->length = 0;
    slot->operation = slot->request.operation;
    slot->id = slot->request.id;
    slot->count = slot->request.nr_segments;
    slot->offset = slot->request.sector_number;
    if (slot->operation == BLKIF_OP_INDIRECT) {
        slot->operation = slot->indirect.indirect_op;
        slot->id = slot->indirect.id;
        slot->count = slot->indirect.nr_segments;
        slot->offset = slot->indirect.sector_number;
        if (slot->operation > BLKIF_OP_WRITE || slot->count == 0 || slot->count > MOST_SEGMENTS)
            return finish(slot, BLKIF_RSP_ERROR);
        return push(&back.indirect, slot);
    }
    int flush = slot->operation == BLKIF_OP_FLUSH_DISKCACHE;
    if (slot->operation > BLKIF_OP_WRITE && !flush) return finish(slot, BLKIF_RSP_EOPNOTSUPP);
    if (slot->count > (flush ? 0 : BLKIF_MAX_SEGMENTS_PER_REQUEST) || (slot->count == 0 && !flush))
        return finish(slot, BLKIF_RSP_ERROR);
    memcpy(slot->segments, slot->request.seg, slot->count * sizeof *slot->segments);
    push(&back.taken, slot);
}

/* Copies the segments of the indirect requests, in one call. */
static void fetch_segments(void)
{
    uint32_t count = back.indirect.count;
    if (count == 0) return;
    for (uint32_t i = 0; i < count; i++) {
        struct slot *slot = &back.slots[back.indirect.slot[i]];
        xengnttab_grant_copy_segment_t *copy = &back.batch[back.batch_length + i];
        *copy = (xengnttab_grant_copy_segment_t){ .flags = GNTCOPY_source_gref, .status = GNTST_general_error };
        copy->source.foreign.ref = slot->indirect.indirect_grefs[0];
        copy->source.foreign.domid = back.guest;
        copy->dest.virt = slot->segments;
        copy->len = slot->count * sizeof *slot->segments;
    }
    int failed = xengnttab_grant_copy(back.grants, count, back.batch + back.batch_length);
    for (uint32_t i = 0; i < count; i++) {
        struct slot *slot = &back.slots[back.indirect.slot[i]];
        if (failed || back.batch[back.batch_length + i].status != GNTST_okay) finish(slot, BLKIF_RSP_ERROR);
        else push(&back.taken, slot);
    }
    back.indirect.count = 0;
}

static int validate(struct slot *slot)
{
    uint64_t sectors = 0;
    for (uint32_t i = 0; i < slot->count; i++) {
        uint32_t first = slot->segments[i].first_sect, last = slot->segments[i].last_sect;
        if (first > last || last >= PAGE / SECTOR) return BLKIF_RSP_ERROR;
        sectors += last - first + 1;
    }
    if (sectors > back.sectors || (sectors > 0 && slot->offset > back.sectors - sectors)) return BLKIF_RSP_ERROR;
    slot->offset *= SECTOR;
    slot->length = sectors * SECTOR;
    return BLKIF_RSP_OKAY;
}

static uint32_t take(void)
{
    RING_IDX producer = *(volatile RING_IDX *)&back.ring.sring->req_prod;
    uint32_t count = producer - back.ring.req_cons;
    xen_rmb();
    if (RING_REQUEST_PROD_OVERFLOW(&back.ring, producer)) fail("Cannot serve the ring: its index is impossible");
    while (back.ring.req_cons != producer) {
        struct slot *slot = &back.slots[back.free.slot[--back.free.count]];
        memcpy(&slot->request, RING_GET_REQUEST(&back.ring, back.ring.req_cons), sizeof slot->request);
        __asm__ volatile("" ::: "memory"); /* one copy, and all is decided from it */
        back.ring.req_cons++;
        decode(slot);
    }
    fetch_segments();
    for (uint32_t i = 0; i < back.taken.count; i++) {
        struct slot *slot = &back.slots[back.taken.slot[i]];
        if (validate(slot) != BLKIF_RSP_OKAY) finish(slot, BLKIF_RSP_ERROR);
        else if (slot->operation == BLKIF_OP_WRITE) add_copies(slot);
        else push(&back.ready, slot);
    }
    back.taken.count = 0;
    return count;
}

/* ---- one pass ---- */

static void consume_events(uint32_t flags)
{
    int port = xenevtchn_pending(back.events);
    if (port >= 0) xenevtchn_unmask(back.events, port); /* until then there is no other event of this one port */
    if (!(flags & IORING_CQE_F_MORE)) watch(xenevtchn_fd(back.events), EVENTS, IORING_POLL_ADD_MULTI);
}

static char *node(const char *directory, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return xs_read(back.store, XBT_NULL, path, NULL);
}

static int front_state(void)
{
    char *state = node(back.front, "state");
    int value = state == NULL ? XenbusStateClosed : atoi(state);
    free(state);
    return value;
}

static void consume_store(void)
{
    for (char **path = xs_check_watch(back.store); path != NULL; path = xs_check_watch(back.store)) free(path);
    back.closing = front_state() > XenbusStateConnected;
    watch(xs_fileno(back.store), STORE, 0);
}

/* Takes completions: the data of reads joins the batch. */
static void reap(void)
{
    uint32_t head = atomic_load_explicit(uring.cq_head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(uring.cq_tail, memory_order_acquire);
    for (; head != tail; head++) {
        const struct io_uring_cqe *cqe = &uring.cqes[head & uring.cq_mask];
        if (cqe->user_data == EVENTS) consume_events(cqe->flags);
        else if (cqe->user_data == STORE) consume_store();
        else {
            back.in_flight--;
            struct slot *slot = &back.slots[cqe->user_data];
            if (advance(slot, cqe->res)) push(&back.ready, slot);
        }
    }
    atomic_store_explicit(uring.cq_head, head, memory_order_release);
    for (uint32_t i = 0; i < back.completed.count; i++) {
        struct slot *slot = &back.slots[back.completed.slot[i]];
        if (slot->operation == BLKIF_OP_READ && slot->status == BLKIF_RSP_OKAY) add_copies(slot);
        else finish(slot, slot->status);
    }
    back.completed.count = 0;
}

/* Copies the data of finished reads and of new writes, in one call. */
static void transfer(void)
{
    if (back.batch_length == 0) return;
    int failed = xengnttab_grant_copy(back.grants, back.batch_length, back.batch);
    for (uint32_t n = 0; n < back.batched.count; n++) {
        struct slot *slot = &back.slots[back.batched.slot[n]];
        int status = failed ? BLKIF_RSP_ERROR : BLKIF_RSP_OKAY;
        for (uint32_t i = 0; i < slot->copies; i++)
            if (back.batch[slot->first_copy + i].status != GNTST_okay) status = BLKIF_RSP_ERROR;
        if (slot->operation == BLKIF_OP_READ || status != BLKIF_RSP_OKAY) finish(slot, status);
        else push(&back.ready, slot);
    }
    back.batched.count = back.batch_length = 0;
}

static void start(void)
{
    for (uint32_t i = 0; i < back.ready.count; i++) while (start_one(&back.slots[back.ready.slot[i]])) {}
    back.ready.count = 0;
}

static uint32_t respond(void)
{
    uint32_t notify, count = back.finished.count;
    if (count == 0) return 0;
    for (uint32_t i = 0; i < count; i++) {
        struct slot *slot = &back.slots[back.finished.slot[i]];
        blkif_response_t *response = RING_GET_RESPONSE(&back.ring, back.ring.rsp_prod_pvt++);
        response->id = slot->id;
        response->operation = slot->operation;
        response->status = slot->status;
        push(&back.free, slot);
    }
    back.finished.count = 0;
    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&back.ring, notify);
    if (notify) xenevtchn_notify(back.events, back.port);
    return count;
}

/* Serves the ring until the frontend closes and nothing is in flight. */
static void serve(void)
{
    for (;;) {
        reap();
        uint32_t moved = take();
        transfer();
        start();
        moved += respond();
        if (moved > 0 || back.completed.count > 0) continue;
        int more;
        RING_FINAL_CHECK_FOR_REQUESTS(&back.ring, more);
        if (more) continue;
        if (back.closing && back.in_flight == 0) return;
        enter();
    }
}

/* ---- the handshake ---- */

static uint32_t number(const char *directory, const char *name, uint32_t absent)
{
    char *text = node(directory, name);
    uint32_t value = text == NULL ? absent : strtoul(text, NULL, 10);
    free(text);
    return value;
}

__attribute__((format(printf, 2, 3))) static void publish(const char *name, const char *format, ...)
{
    char path[512], value[64];
    va_list values;
    va_start(values, format);
    snprintf(path, sizeof path, "%s/%s", back.directory, name);
    int length = vsnprintf(value, sizeof value, format, values);
    va_end(values);
    if (!xs_write(back.store, XBT_NULL, path, value, length)) fail("Cannot write %s: %m", path);
}

static void negotiate(void)
{
    back.front = node(back.directory, "frontend");
    if (back.front == NULL) fail("Cannot serve %s: there is no frontend", back.directory);
    back.guest = number(back.directory, "frontend-id", 0);
    publish("feature-flush-cache", "1"), publish("feature-persistent", "0");
    publish("feature-max-indirect-segments", "%d", MOST_SEGMENTS);
    publish("max-ring-page-order", "4");
    publish("state", "%d", XenbusStateInitWait);
    char path[512];
    snprintf(path, sizeof path, "%s/state", back.front);
    if (!xs_watch(back.store, path, "front")) fail("Cannot watch %s: %m", path);
    for (int state = 0; state != XenbusStateInitialised && state != XenbusStateConnected; state = front_state()) {
        unsigned int count;
        free(xs_read_watch(back.store, &count));
    }
    char *abi = node(back.front, "protocol");
    if (abi != NULL && strcmp(abi, XEN_IO_PROTO_ABI_NATIVE) != 0) fail("Cannot serve the protocol %s", abi);
    free(abi);
}

static void connect_ring(void)
{
    uint32_t order = number(back.front, "ring-page-order", 0), refs[MOST_PAGES], count = 1u << order;
    if (order > 4) fail("Cannot serve a ring of order %u", order);
    for (uint32_t i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, order == 0 ? "ring-ref" : "ring-ref%u", i);
        refs[i] = number(back.front, name, 0);
    }
    back.grants = xengnttab_open(NULL, 0);
    back.events = xenevtchn_open(NULL, 0);
    if (back.grants == NULL || back.events == NULL) fail("Cannot open Xen's devices: %m");
    blkif_sring_t *shared = xengnttab_map_domain_grant_refs(back.grants, count, back.guest, refs, PROT_READ | PROT_WRITE);
    if (shared == NULL) fail("Cannot map the ring: %m");
    int port = xenevtchn_bind_interdomain(back.events, back.guest, number(back.front, "event-channel", 0));
    if (port < 0) fail("Cannot bind the event channel: %m");
    back.port = port;
    fcntl(xenevtchn_fd(back.events), F_SETFL, O_NONBLOCK);
    BACK_RING_ATTACH(&back.ring, shared, shared->rsp_prod, (size_t)count * PAGE);
    uint8_t *data = pages((size_t)RING_SIZE(&back.ring) * MOST_SEGMENTS * PAGE, -1, 0);
    for (uint32_t i = RING_SIZE(&back.ring); i-- > 0;) {
        back.slots[i].data = data + (size_t)i * MOST_SEGMENTS * PAGE;
        push(&back.free, &back.slots[i]);
    }
    watch(xenevtchn_fd(back.events), EVENTS, IORING_POLL_ADD_MULTI);
    watch(xs_fileno(back.store), STORE, 0);
    publish("sectors", "%lu", back.sectors), publish("sector-size", "%d", SECTOR), publish("info", "0");
    publish("state", "%d", XenbusStateConnected);
}

int main(int argc, char **argv)
{
    if (argc != 4) fail("usage: reference BACKEND-DIRECTORY IMAGE cached|direct");
    back.directory = argv[1];
    back.store = xs_open(0);
    if (back.store == NULL) fail("Cannot reach xenstored: %m");
    disk_open(argv[2], strcmp(argv[3], "direct") == 0);
    uring_open();
    negotiate();
    connect_ring();
    serve();
    publish("state", "%d", XenbusStateClosing), publish("state", "%d", XenbusStateClosed);
    return 0;
}
