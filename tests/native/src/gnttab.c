/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A stand-in for libxengnttab.so.1, the mapping and copying side (xengnttab_*; gntshr.c has the granting side). Errors
 * are those of Linux's gntdev: one bad reference makes a whole map fail with EINVAL and leaves nothing mapped.
 * DMA buffers, and event channels as unmap notification, are not supported.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xengnttab.h>

#include "grants.h"
#include "machine.h"

#define BUCKETS 1024
#define MAX_COUNT 65536 /* gntdev's default limit of one mapping */

struct mapping {
    struct mapping *next;
    unsigned char *start;
    uint32_t count;
    uint32_t notify_offset; /* byte that unmapping clears, or UINT32_MAX */
    uint32_t records[];
};

struct xengntdev_handle {
    struct attachment at;
    pthread_mutex_t lock; /* several threads call the library */
    struct mapping *buckets[BUCKETS];
};

static struct mapping **bucket(xengnttab_handle *xgt, const void *start)
{
    return &xgt->buckets[((uintptr_t)start / PAGE_BYTES) % BUCKETS];
}

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned open_flags)
{
    (void)logger, (void)open_flags;
    xengnttab_handle *xgt = calloc(1, sizeof *xgt);
    if (xgt == NULL) return NULL;
    if (machine_attach(&xgt->at) < 0) {
        free(xgt);
        return NULL;
    }
    pthread_mutex_init(&xgt->lock, NULL);
    return xgt;
}

int xengnttab_fd(xengnttab_handle *xgt) { return xgt->at.fd; }

int xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t nr_grants)
{
    (void)xgt, (void)nr_grants; /* a no-op on current kernels too */
    return 0;
}

/* Checks one grant and records its mapping. Returns the record, or -1. The machine's lock is held. */
static int32_t take_one(struct attachment *at, uint32_t domid, uint32_t ref, int write)
{
    struct machine *m = at->machine;
    int granter = machine_find_domain(m, domid, 0);
    uint32_t frame;
    if (granter < 0) return -1;
    if (grant_check(m, granter, ref, m->domains[at->domain].domid, write, &frame) != GNTST_okay) return -1;
    return map_record_take(m, at->process, granter, ref, frame);
}

static void drop_records(struct attachment *at, const uint32_t *records, uint32_t count)
{
    machine_lock(at->machine);
    for (uint32_t i = 0; i < count; i++) map_record_drop(at->machine, records[i]);
    machine_unlock(at->machine);
}

/* Records the mapping of all grants, or of none. */
static int take_records(struct attachment *at, struct mapping *mapping, const uint32_t *domids, uint32_t domid_step,
                        const uint32_t *refs, int write)
{
    uint32_t taken = 0;
    machine_lock(at->machine);
    for (; taken < mapping->count; taken++) {
        int32_t record = take_one(at, domids[taken * domid_step], refs[taken], write);
        if (record < 0) break;
        mapping->records[taken] = record;
    }
    machine_unlock(at->machine);
    if (taken == mapping->count) return 0;
    drop_records(at, mapping->records, taken);
    errno = EINVAL;
    return -1;
}

/* Maps frame by frame, runs of adjacent frames at once, into one range. */
static void *map_frames(struct attachment *at, const struct mapping *mapping, int prot)
{
    size_t bytes = (size_t)mapping->count * PAGE_BYTES;
    unsigned char *start = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return NULL;
    for (uint32_t i = 0, run; i < mapping->count; i += run) {
        uint32_t frame = at->machine->maps[mapping->records[i]].frame;
        for (run = 1; i + run < mapping->count; run++)
            if (at->machine->maps[mapping->records[i + run]].frame != frame + run) break;
        if (mmap(start + (size_t)i * PAGE_BYTES, (size_t)run * PAGE_BYTES, prot, MAP_SHARED | MAP_FIXED, at->fd,
                 FRAMES_OFFSET + (off_t)frame * PAGE_BYTES) == MAP_FAILED) {
            munmap(start, bytes);
            return NULL;
        }
    }
    return start;
}

static struct mapping *map(xengnttab_handle *xgt, uint32_t count, const uint32_t *domids, uint32_t domid_step,
                           const uint32_t *refs, int prot)
{
    if (count == 0 || count > MAX_COUNT) {
        errno = EINVAL;
        return NULL;
    }
    struct mapping *mapping = malloc(sizeof *mapping + count * sizeof mapping->records[0]);
    if (mapping == NULL) return NULL;
    mapping->count = count;
    mapping->notify_offset = UINT32_MAX;
    if (take_records(&xgt->at, mapping, domids, domid_step, refs, prot & PROT_WRITE) < 0) {
        free(mapping);
        errno = EINVAL;
        return NULL;
    }
    mapping->start = map_frames(&xgt->at, mapping, prot);
    if (mapping->start == NULL) {
        drop_records(&xgt->at, mapping->records, count);
        free(mapping);
        errno = ENOMEM;
        return NULL;
    }
    pthread_mutex_lock(&xgt->lock);
    struct mapping **head = bucket(xgt, mapping->start);
    mapping->next = *head;
    *head = mapping;
    pthread_mutex_unlock(&xgt->lock);
    atomic_fetch_add_explicit(&xgt->at.machine->processes[xgt->at.process].map_calls, 1, memory_order_relaxed);
    return mapping;
}

static void *start_of(const struct mapping *mapping) { return mapping == NULL ? NULL : mapping->start; }

void *xengnttab_map_grant_ref(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot)
{
    return start_of(map(xgt, 1, &domid, 1, &ref, prot));
}

void *xengnttab_map_grant_refs(xengnttab_handle *xgt, uint32_t count, uint32_t *domids, uint32_t *refs, int prot)
{
    return start_of(map(xgt, count, domids, 1, refs, prot));
}

void *xengnttab_map_domain_grant_refs(xengnttab_handle *xgt, uint32_t count, uint32_t domid, uint32_t *refs, int prot)
{
    return start_of(map(xgt, count, &domid, 0, refs, prot));
}

void *xengnttab_map_grant_ref_notify(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot,
                                     uint32_t notify_offset, evtchn_port_t notify_port)
{
    if (notify_port != UINT32_MAX || (notify_offset != UINT32_MAX && notify_offset >= PAGE_BYTES)) {
        errno = notify_port != UINT32_MAX ? EOPNOTSUPP : EINVAL;
        return NULL;
    }
    struct mapping *mapping = map(xgt, 1, &domid, 1, &ref, prot);
    if (mapping != NULL) mapping->notify_offset = notify_offset;
    return start_of(mapping);
}

static void dispose(xengnttab_handle *xgt, struct mapping *mapping)
{
    struct attachment *at = &xgt->at;
    if (mapping->notify_offset != UINT32_MAX) {
        uint32_t frame = at->machine->maps[mapping->records[0]].frame;
        at->frames[(size_t)frame * PAGE_BYTES + mapping->notify_offset] = 0;
    }
    munmap(mapping->start, (size_t)mapping->count * PAGE_BYTES);
    drop_records(at, mapping->records, mapping->count);
    free(mapping);
}

int xengnttab_unmap(xengnttab_handle *xgt, void *start_address, uint32_t count)
{
    struct mapping *found = NULL;
    pthread_mutex_lock(&xgt->lock);
    for (struct mapping **link = bucket(xgt, start_address); *link != NULL; link = &(*link)->next) {
        if ((*link)->start != start_address || (*link)->count != count) continue;
        found = *link;
        *link = found->next;
        break;
    }
    pthread_mutex_unlock(&xgt->lock);
    if (found == NULL) {
        errno = EINVAL;
        return -1;
    }
    dispose(xgt, found);
    atomic_fetch_add_explicit(&xgt->at.machine->processes[xgt->at.process].unmap_calls, 1, memory_order_relaxed);
    return 0;
}

int xengnttab_close(xengnttab_handle *xgt)
{
    if (xgt == NULL) return 0;
    for (int i = 0; i < BUCKETS; i++)
        for (struct mapping *mapping = xgt->buckets[i], *next; mapping != NULL; mapping = next) {
            next = mapping->next;
            dispose(xgt, mapping);
        }
    machine_detach(&xgt->at);
    free(xgt);
    return 0;
}

/* The address of one side of a copy in this process. NULL with the segment's status if the grant is bad. */
static unsigned char *copy_side(struct attachment *at, const union xengnttab_copy_ptr *side, int is_grant, int write,
                                int16_t *status)
{
    struct machine *m = at->machine;
    uint32_t frame;
    if (!is_grant) return side->virt;
    int granter = machine_find_domain(m, side->foreign.domid, 0);
    *status = granter < 0 ? GNTST_bad_domain
                          : grant_check(m, granter, side->foreign.ref, m->domains[at->domain].domid, write, &frame);
    if (*status != GNTST_okay) return NULL;
    return at->frames + (size_t)frame * PAGE_BYTES + side->foreign.offset;
}

int xengnttab_grant_copy(xengnttab_handle *xgt, uint32_t count, xengnttab_grant_copy_segment_t *segs)
{
    struct process *process = &xgt->at.machine->processes[xgt->at.process];
    for (uint32_t i = 0; i < count; i++) {
        /* gntdev refuses the whole call if a segment crosses the end of its granted page. */
        if (((segs[i].flags & GNTCOPY_source_gref) && segs[i].source.foreign.offset + segs[i].len > PAGE_BYTES) ||
            ((segs[i].flags & GNTCOPY_dest_gref) && segs[i].dest.foreign.offset + segs[i].len > PAGE_BYTES)) {
            errno = EINVAL;
            return -1;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        int16_t status = GNTST_okay;
        unsigned char *source =
            copy_side(&xgt->at, &segs[i].source, segs[i].flags & GNTCOPY_source_gref, 0, &status);
        unsigned char *dest =
            source == NULL ? NULL : copy_side(&xgt->at, &segs[i].dest, segs[i].flags & GNTCOPY_dest_gref, 1, &status);
        if (status == GNTST_okay) memmove(dest, source, segs[i].len);
        segs[i].status = status;
    }
    atomic_fetch_add_explicit(&process->copy_calls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&process->copy_segments, count, memory_order_relaxed);
    return 0;
}

/* Exported because the real library has them. Not supported, because no block backend uses them. */
int xengnttab_dmabuf_exp_from_refs(xengnttab_handle *xgt, uint32_t domid, uint32_t flags, uint32_t count,
                                   const uint32_t *refs, uint32_t *fd)
{
    (void)xgt, (void)domid, (void)flags, (void)count, (void)refs, (void)fd;
    errno = EOPNOTSUPP;
    return -1;
}

int xengnttab_dmabuf_exp_wait_released(xengnttab_handle *xgt, uint32_t fd, uint32_t wait_to_ms)
{
    (void)xgt, (void)fd, (void)wait_to_ms;
    errno = EOPNOTSUPP;
    return -1;
}

int xengnttab_dmabuf_imp_to_refs(xengnttab_handle *xgt, uint32_t domid, uint32_t fd, uint32_t count, uint32_t *refs)
{
    (void)xgt, (void)domid, (void)fd, (void)count, (void)refs;
    errno = EOPNOTSUPP;
    return -1;
}

int xengnttab_dmabuf_imp_release(xengnttab_handle *xgt, uint32_t fd)
{
    (void)xgt, (void)fd;
    errno = EOPNOTSUPP;
    return -1;
}
