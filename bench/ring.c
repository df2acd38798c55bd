/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The data plane's work for a read, in C, for comparison. A frontend puts requests on a ring. The backend takes, decodes
 * and validates them, completes them on a disk that does nothing, builds one batch of grant copies, pushes responses and
 * follows the notify rule. One thread, mmapped memory, no system calls.
 * Usage: ring SEGMENTS REQUESTS; prints the time of all requests in nanoseconds, and the number of notifications.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096, SLOTS = 32, MASK = SLOTS - 1, MAX_SEGMENTS = 11, SECTOR = 512, GUEST = 5 };
enum { OP_READ = 0, OP_WRITE = 1, OP_BARRIER = 2, OP_FLUSH = 3, OPS = 4, OKAY = 0, ERROR = -1, UNSUPPORTED = -2 };
enum { TAKEN = 1, DATA = 3, FINISHED = 5 };
enum { DEST_IS_GRANT = 2, COPY_FAILED = -1 };

struct segment { uint32_t gref; uint8_t first, last; };
struct request {
    uint8_t operation, count;
    uint16_t handle;
    uint64_t id, sector;
    struct segment segments[MAX_SEGMENTS];
};
struct response { uint64_t id; uint8_t operation; int16_t status; };
union slot_memory { struct request request; struct response response; uint8_t bytes[112]; };
struct ring {
    _Atomic uint32_t req_prod, req_event, rsp_prod, rsp_event;
    uint8_t padding[48];
    union slot_memory slots[SLOTS];
};
_Static_assert(sizeof(union slot_memory) == 112, "a slot of the x86_64 ABI");

struct copy { uint64_t local; uint32_t gref; uint16_t offset, domain, length, flags; int16_t status; };

struct slot {
    struct request request;
    uint64_t offset_bytes;
    uint32_t length_bytes, batch_first;
    uint16_t batch_count;
    uint8_t phase, failed;
    int8_t status;
};
struct vector { uint64_t address; uint32_t length; };
struct list { uint32_t count; uint16_t slot[SLOTS]; };

static struct {
    struct ring *ring;
    uint32_t req_cons, rsp_prod, published;
    uint64_t sectors, align_mask;
    struct slot slots[SLOTS];
    struct vector vectors[SLOTS];
    struct list free, taken, queued, completed, finished, batched;
    struct copy *batch;
    uint32_t batch_length;
    uint8_t *buffers;
    uint64_t by_operation[OPS], sectors_read, sent, saved, passes;
} back;

static struct { struct ring *ring; uint32_t req_prod, rsp_cons, published; uint64_t sector, bad; } front;

static void *pages(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) exit(1);
    return memory;
}

static void push_list(struct list *list, uint16_t slot) { list->slot[list->count++] = slot; }

/* In place of the hypercall: every copy succeeds and moves nothing. */
__attribute__((noinline)) static void run_batch(struct copy *batch, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++) batch[i].status = 0;
}

static int validate(struct slot *slot)
{
    const struct request *request = &slot->request;
    uint64_t misaligned = request->sector, total = 0;
    if (request->operation > OP_FLUSH) return UNSUPPORTED;
    if (request->count == 0 || request->count > MAX_SEGMENTS) return ERROR;
    for (uint32_t i = 0; i < request->count; i++) {
        uint32_t first = request->segments[i].first, last = request->segments[i].last;
        if (first > last || last >= PAGE / SECTOR) return ERROR;
        misaligned |= first | (last - first + 1);
        total += last - first + 1;
    }
    if (misaligned & back.align_mask) return ERROR;
    if (request->sector > back.sectors - total) return ERROR;
    slot->offset_bytes = request->sector * SECTOR;
    slot->length_bytes = total * SECTOR;
    return OKAY;
}

static void answer(uint16_t index, int status)
{
    back.slots[index].phase = FINISHED;
    back.slots[index].status = status;
    push_list(&back.finished, index);
}

/* Adds to the batch: the copy of the slot's data to the guest. */
static void release(uint16_t index)
{
    struct slot *slot = &back.slots[index];
    uint64_t local = back.vectors[index].address;
    slot->batch_first = back.batch_length;
    for (uint32_t i = 0; i < slot->request.count; i++) {
        const struct segment *segment = &slot->request.segments[i];
        struct copy *copy = &back.batch[back.batch_length++];
        uint32_t length = (segment->last - segment->first + 1) * SECTOR;
        *copy = (struct copy){ local, segment->gref, segment->first * SECTOR, GUEST, length, DEST_IS_GRANT,
                               COPY_FAILED };
        local += length;
    }
    slot->batch_count = slot->request.count;
    push_list(&back.batched, index);
}

static uint32_t reap(void)
{
    uint32_t count = back.completed.count;
    for (uint32_t i = 0; i < count; i++) {
        uint16_t index = back.completed.slot[i];
        if (back.slots[index].phase == DATA) release(index);
        answer(index, OKAY);
    }
    back.completed.count = 0;
    return count;
}

static uint32_t take(void)
{
    uint32_t available = back.free.count == 0 ? 0 : atomic_load(&back.ring->req_prod) - back.req_cons, taken = 0;
    if (available > SLOTS - (back.req_cons - back.rsp_prod)) exit(2);
    for (; available > 0 && back.free.count > 0; available--, taken++) {
        uint16_t index = back.free.slot[--back.free.count];
        struct slot *slot = &back.slots[index];
        memcpy(&slot->request, &back.ring->slots[back.req_cons++ & MASK], sizeof slot->request);
        __asm__ volatile("" ::: "memory"); /* one copy, and all is decided from it */
        slot->phase = TAKEN;
        slot->failed = 0;
        int status = validate(slot);
        if (slot->request.operation < OPS) back.by_operation[slot->request.operation]++;
        if (status != OKAY) {
            answer(index, status);
            continue;
        }
        back.vectors[index].address = (uint64_t)(back.buffers + (size_t)index * MAX_SEGMENTS * PAGE);
        back.vectors[index].length = slot->length_bytes;
        push_list(&back.taken, index);
    }
    return taken;
}

static void transfer(void)
{
    if (back.batched.count == 0) return;
    run_batch(back.batch, back.batch_length);
    for (uint32_t n = 0; n < back.batched.count; n++) {
        struct slot *slot = &back.slots[back.batched.slot[n]];
        for (uint32_t i = 0; i < slot->batch_count; i++)
            if (back.batch[slot->batch_first + i].status != 0) slot->failed = 1;
    }
    back.batched.count = back.batch_length = 0;
}

static void start(void)
{
    for (uint32_t i = 0; i < back.taken.count; i++) {
        back.slots[back.taken.slot[i]].phase = DATA;
        push_list(&back.queued, back.taken.slot[i]);
    }
    back.taken.count = 0;
}

/* The disk that does nothing. */
__attribute__((noinline)) static void submit(void)
{
    for (uint32_t i = 0; i < back.queued.count; i++) push_list(&back.completed, back.queued.slot[i]);
    back.queued.count = 0;
}

static void respond(void)
{
    if (back.finished.count == 0) return;
    for (uint32_t i = 0; i < back.finished.count; i++) {
        uint16_t index = back.finished.slot[i];
        struct slot *slot = &back.slots[index];
        struct response *response = &back.ring->slots[back.rsp_prod++ & MASK].response;
        int status = slot->status == OKAY && slot->failed ? ERROR : slot->status;
        if (status == OKAY) back.sectors_read += slot->length_bytes / SECTOR;
        response->id = slot->request.id;
        response->operation = slot->request.operation;
        response->status = status;
        push_list(&back.free, index);
    }
    back.finished.count = 0;
    uint32_t previous = back.published, current = back.published = back.rsp_prod;
    atomic_store(&back.ring->rsp_prod, current);
    if (current - atomic_load(&back.ring->rsp_event) < current - previous) back.sent++;
    else back.saved++;
}

static int step(void)
{
    back.passes++;
    uint32_t reaped = reap(), taken = take();
    transfer();
    start();
    submit();
    respond();
    return reaped > 0 || taken > 0;
}

static int rest(void)
{
    if (atomic_load(&back.ring->req_prod) != back.req_cons) return 1;
    atomic_store(&back.ring->req_event, back.req_cons + 1);
    return atomic_load(&back.ring->req_prod) != back.req_cons;
}

static void put_requests(uint32_t segments, uint32_t count)
{
    for (uint32_t n = 0; n < count; n++) {
        struct request *request = &front.ring->slots[front.req_prod & MASK].request;
        request->operation = OP_READ;
        request->count = segments;
        request->handle = 0;
        request->id = front.req_prod++;
        request->sector = front.sector;
        for (uint32_t i = 0; i < segments; i++) request->segments[i] = (struct segment){ 8 + i, 0, 7 };
        front.sector = (front.sector + 88) & 0xFFFFF;
    }
    front.published = front.req_prod;
    atomic_store(&front.ring->req_prod, front.req_prod);
    (void)atomic_load(&front.ring->req_event);
}

static uint32_t take_responses(void)
{
    uint32_t count = atomic_load(&front.ring->rsp_prod) - front.rsp_cons;
    for (uint32_t n = 0; n < count; n++) {
        const struct response *response = &front.ring->slots[front.rsp_cons & MASK].response;
        if (response->status != OKAY || response->operation != OP_READ) front.bad++;
        front.rsp_cons++;
    }
    atomic_store(&front.ring->rsp_event, front.rsp_cons + 1);
    return count;
}

static void run(uint32_t segments, uint64_t requests)
{
    for (uint64_t done = 0; done < requests;) {
        uint32_t room = SLOTS - (front.req_prod - front.rsp_cons);
        put_requests(segments, requests - done < room ? requests - done : room);
        while (step() || rest()) {}
        done += take_responses();
    }
}

int main(int argc, char **argv)
{
    struct timespec begin, end;
    uint32_t segments = argc == 3 ? atoi(argv[1]) : 0;
    uint64_t requests = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (segments < 1 || segments > MAX_SEGMENTS || requests == 0) return 2;
    back.ring = front.ring = pages(PAGE);
    back.batch = pages(SLOTS * MAX_SEGMENTS * sizeof *back.batch);
    back.buffers = pages((size_t)SLOTS * MAX_SEGMENTS * PAGE);
    back.sectors = 1 << 21;
    atomic_store(&front.ring->req_event, 1);
    atomic_store(&front.ring->rsp_event, 1);
    for (uint16_t i = 0; i < SLOTS; i++) push_list(&back.free, SLOTS - 1 - i);
    run(segments, requests / 10 + 1);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    run(segments, requests);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double ns = (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
    printf("{\"ns\":%.0f,\"bad\":%lu,\"notifications\":%lu,\"passes\":%lu}\n", ns, front.bad, back.sent, back.passes);
    return front.bad != 0;
}
