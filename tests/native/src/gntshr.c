/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The granting side of the stand-in for libxengnttab.so.1 (xengntshr_*). A simulated frontend shares its pages with it.
 * The header gives the handles of both sides one opaque struct tag, so this file casts to its own type.
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

struct share {
    struct share *next;
    unsigned char *start;
    uint32_t count;
    uint32_t notify_offset; /* byte that unsharing clears, or UINT32_MAX */
    uint32_t refs[];
};

struct sharer {
    struct attachment at;
    pthread_mutex_t lock;
    struct share *shares;
};

static struct sharer *sharer_of(xengntshr_handle *xgs) { return (struct sharer *)xgs; }

xengntshr_handle *xengntshr_open(struct xentoollog_logger *logger, unsigned open_flags)
{
    (void)logger, (void)open_flags;
    struct sharer *sharer = calloc(1, sizeof *sharer);
    if (sharer == NULL) return NULL;
    if (machine_attach(&sharer->at) < 0) {
        free(sharer);
        return NULL;
    }
    pthread_mutex_init(&sharer->lock, NULL);
    return (xengntshr_handle *)sharer;
}

int xengntshr_fd(xengntshr_handle *xgs) { return sharer_of(xgs)->at.fd; }

/* Takes, clears and grants `count` adjacent frames. Returns the first frame, or -1 with errno and no grant. */
static int64_t grant_frames(struct attachment *at, uint32_t domid, uint32_t count, uint32_t *refs, int writable)
{
    struct machine *m = at->machine;
    uint32_t given = 0;
    machine_lock(m);
    int alive = m->domains[at->domain].state == DOMAIN_ALIVE;
    int64_t frame = alive ? frames_take(m, count) : -1;
    if (frame >= 0) {
        memset(at->frames + (size_t)frame * PAGE_BYTES, 0, (size_t)count * PAGE_BYTES);
        for (; given < count; given++) {
            refs[given] = grant_give(m, at->domain, 0, domid, frame + given, !writable, at->process + 1);
            if (refs[given] == 0) break;
        }
    }
    if (given < count) {
        frame = -1;
        while (given > 0) grant_end(m, at->domain, refs[--given]);
    }
    machine_unlock(m);
    if (frame < 0) errno = alive ? ENOSPC : ESRCH;
    return frame;
}

static void end_grants(struct attachment *at, const uint32_t *refs, uint32_t count)
{
    machine_lock(at->machine);
    for (uint32_t i = 0; i < count; i++) {
        /* The domain may have died, and another one may have its slot now. */
        struct grant *g = &at->machine->domains[at->domain].grants[refs[i]];
        if (g->owner == at->process + 1) grant_end(at->machine, at->domain, refs[i]);
    }
    machine_unlock(at->machine);
}

static struct share *share(struct sharer *sharer, uint32_t domid, uint32_t count, uint32_t *refs, int writable)
{
    struct share *share = malloc(sizeof *share + count * sizeof share->refs[0]);
    if (share == NULL) return NULL;
    int64_t frame = grant_frames(&sharer->at, domid, count, share->refs, writable);
    if (frame < 0) {
        free(share);
        return NULL;
    }
    share->start = mmap(NULL, (size_t)count * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, sharer->at.fd,
                        FRAMES_OFFSET + (off_t)frame * PAGE_BYTES);
    if (share->start == MAP_FAILED) {
        end_grants(&sharer->at, share->refs, count);
        free(share);
        return NULL;
    }
    share->count = count;
    share->notify_offset = UINT32_MAX;
    memcpy(refs, share->refs, count * sizeof refs[0]);
    pthread_mutex_lock(&sharer->lock);
    share->next = sharer->shares;
    sharer->shares = share;
    pthread_mutex_unlock(&sharer->lock);
    return share;
}

void *xengntshr_share_pages(xengntshr_handle *xgs, uint32_t domid, int count, uint32_t *refs, int writable)
{
    if (count <= 0) {
        errno = EINVAL;
        return NULL;
    }
    struct share *made = share(sharer_of(xgs), domid, count, refs, writable);
    return made == NULL ? NULL : made->start;
}

void *xengntshr_share_page_notify(xengntshr_handle *xgs, uint32_t domid, uint32_t *ref, int writable,
                                  uint32_t notify_offset, evtchn_port_t notify_port)
{
    if (notify_port != UINT32_MAX || (notify_offset != UINT32_MAX && notify_offset >= PAGE_BYTES)) {
        errno = notify_port != UINT32_MAX ? EOPNOTSUPP : EINVAL;
        return NULL;
    }
    struct share *made = share(sharer_of(xgs), domid, 1, ref, writable);
    if (made == NULL) return NULL;
    made->notify_offset = notify_offset;
    return made->start;
}

static void dispose(struct sharer *sharer, struct share *share)
{
    if (share->notify_offset != UINT32_MAX) share->start[share->notify_offset] = 0;
    munmap(share->start, (size_t)share->count * PAGE_BYTES);
    end_grants(&sharer->at, share->refs, share->count);
    free(share);
}

int xengntshr_unshare(xengntshr_handle *xgs, void *start_address, uint32_t count)
{
    struct sharer *sharer = sharer_of(xgs);
    struct share *found = NULL;
    pthread_mutex_lock(&sharer->lock);
    for (struct share **link = &sharer->shares; *link != NULL; link = &(*link)->next) {
        if ((*link)->start != start_address || (*link)->count != count) continue;
        found = *link;
        *link = found->next;
        break;
    }
    pthread_mutex_unlock(&sharer->lock);
    if (found == NULL) {
        errno = EINVAL;
        return -1;
    }
    dispose(sharer, found);
    return 0;
}

int xengntshr_close(xengntshr_handle *xgs)
{
    struct sharer *sharer = sharer_of(xgs);
    if (sharer == NULL) return 0;
    for (struct share *share = sharer->shares, *next; share != NULL; share = next) {
        next = share->next;
        dispose(sharer, share);
    }
    machine_detach(&sharer->at);
    free(sharer);
    return 0;
}
