/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Creates, opens and locks the shared machine, its domains and processes, and releases the resources of dead processes.
 */
#define _GNU_SOURCE
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "events.h"
#include "grants.h"

void robust_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

int robust_lock(pthread_mutex_t *lock)
{
    if (pthread_mutex_lock(lock) != EOWNERDEAD) return 0;
    pthread_mutex_consistent(lock);
    return 1;
}

void machine_lock(struct machine *m)
{
    if (robust_lock(&m->lock)) grants_recount(m);
}

void machine_unlock(struct machine *m) { pthread_mutex_unlock(&m->lock); }

uint64_t process_start_time(int pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return 0;
    text[length] = 0;
    /* The command name may contain anything, so count fields from its closing bracket: state is field 3. */
    char *field = strrchr(text, ')');
    if (field == NULL || field[2] == 'Z' || field[2] == 'X') return 0;
    field += 2;
    for (int number = 3; number < 22; number++) {
        field = strchr(field, ' ');
        if (field == NULL) return 0;
        field++;
    }
    return strtoull(field, NULL, 10);
}

static int process_alive(const struct process *p) { return process_start_time(p->pid) == p->start_time; }

static void process_release(struct machine *m, uint32_t slot)
{
    for (uint32_t i = 0; i < MAX_HANDLES; i++)
        if (m->handles[i].used && m->handles[i].process == slot) handle_release(m, i);
    grants_release_process(m, slot);
    memset(&m->processes[slot], 0, sizeof m->processes[slot]);
}

void machine_reap(struct machine *m)
{
    for (uint32_t i = 0; i < MAX_PROCESSES; i++)
        if (m->processes[i].pid != 0 && !process_alive(&m->processes[i])) process_release(m, i);
}

/* This process's slot, a new one if it has none yet. -1 if all are used. The lock is held. */
static int process_enter(struct machine *m, uint32_t domid)
{
    int32_t pid = getpid();
    uint64_t start_time = process_start_time(pid);
    int free_slot = -1;
    for (int i = 0; i < MAX_PROCESSES; i++) {
        struct process *p = &m->processes[i];
        if (p->pid == pid && p->start_time == start_time) {
            p->opens++;
            return i;
        }
        if (p->pid == 0 && free_slot < 0) free_slot = i;
    }
    if (free_slot < 0) return -1;
    struct process *p = &m->processes[free_slot];
    p->start_time = start_time;
    p->domid = domid;
    p->opens = 1;
    p->pid = pid;
    return free_slot;
}

int machine_find_domain(struct machine *m, uint32_t domid, int dead)
{
    for (int i = 0; i < MAX_DOMAINS; i++) {
        uint32_t state = m->domains[i].state;
        if (m->domains[i].domid == domid && (state == DOMAIN_ALIVE || (dead && state == DOMAIN_DEAD))) return i;
    }
    errno = ESRCH;
    return -1;
}

static int domain_referenced(struct machine *m, uint32_t slot)
{
    for (uint32_t i = 0; i < MAX_HANDLES; i++)
        if (m->handles[i].used && m->handles[i].domain == slot) return 1;
    for (uint32_t ref = 0; ref < m->domains[slot].grant_top; ref++)
        if (grant_word_state(m->domains[slot].grants[ref].word) != GRANT_FREE) return 1;
    return 0;
}

static int domain_free_slot(struct machine *m)
{
    for (int i = 0; i < MAX_DOMAINS; i++)
        if (m->domains[i].state == DOMAIN_FREE) return i;
    for (int i = 0; i < MAX_DOMAINS; i++)
        if (m->domains[i].state == DOMAIN_DEAD && !domain_referenced(m, i)) return i;
    return -1;
}

int machine_add_domain(struct machine *m, uint32_t domid)
{
    if (machine_find_domain(m, domid, 0) >= 0) {
        errno = EEXIST;
        return -1;
    }
    int slot = domain_free_slot(m);
    int64_t frame = slot < 0 ? -1 : frames_take(m, 1);
    if (frame < 0) {
        errno = ENOSPC;
        return -1;
    }
    struct domain *d = &m->domains[slot];
    d->domid = domid;
    d->grant_hint = d->grant_top = FIRST_FREE_GRANT;
    d->state = DOMAIN_ALIVE;
    memset((unsigned char *)m + FRAMES_OFFSET + (size_t)frame * PAGE_BYTES, 0, PAGE_BYTES);
    grant_give(m, slot, STORE_GRANT, 0, frame, 0, 0);
    d->store_port = port_find_free(d);
    d->ports[d->store_port].link = port_link(PORT_UNBOUND, 0, 0);
    return slot;
}

void machine_end_domain(struct machine *m, uint32_t slot)
{
    struct domain *d = &m->domains[slot];
    for (uint32_t number = 1; number < MAX_PORTS; number++)
        if (link_state(d->ports[number].link) != PORT_FREE) port_close(m, slot, number);
    for (uint32_t ref = 0; ref < d->grant_top; ref++)
        if (grant_word_state(d->grants[ref].word) == GRANT_ACTIVE) grant_end(m, slot, ref);
    d->state = DOMAIN_DEAD;
}

static void machine_path(char *path, size_t size, const char *directory)
{
    snprintf(path, size, "%s/machine", directory);
}

int machine_create(const char *directory)
{
    char path[4096];
    machine_path(path, sizeof path, directory);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return -1;
    if (ftruncate(fd, MACHINE_BYTES) < 0) return -1;
    struct machine *m = mmap(NULL, MACHINE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (m == MAP_FAILED) return -1;
    robust_init(&m->lock);
    for (int i = 0; i < MAX_HANDLES; i++) robust_init(&m->handles[i].lock);
    machine_lock(m);
    int slot = machine_add_domain(m, 0);
    machine_unlock(m);
    atomic_thread_fence(memory_order_seq_cst);
    m->magic = MACHINE_MAGIC;
    munmap(m, MACHINE_BYTES);
    return slot < 0 ? -1 : 0;
}

int machine_open(struct attachment *at, const char *directory)
{
    char path[4096];
    machine_path(path, sizeof path, directory);
    at->fd = open(path, O_RDWR | O_CLOEXEC);
    if (at->fd < 0) return -1;
    struct stat status;
    if (fstat(at->fd, &status) < 0 || (size_t)status.st_size != MACHINE_BYTES) {
        close(at->fd);
        errno = ENXIO; /* created by another build of these sources */
        return -1;
    }
    at->machine = mmap(NULL, MACHINE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, at->fd, 0);
    if (at->machine == MAP_FAILED) {
        close(at->fd);
        return -1;
    }
    at->frames = (unsigned char *)at->machine + FRAMES_OFFSET;
    at->process = MAX_PROCESSES;
    at->domain = 0;
    return 0;
}

int machine_attach(struct attachment *at)
{
    const char *directory = getenv("XENBLK_FAKE_DIR");
    const char *domid_text = getenv("XENBLK_FAKE_DOMID");
    uint32_t domid = domid_text == NULL ? 0 : (uint32_t)strtoul(domid_text, NULL, 10);
    if (directory == NULL) {
        errno = ENOENT; /* as on a machine without /dev/xen */
        return -1;
    }
    if (machine_open(at, directory) < 0) return -1;
    machine_lock(at->machine);
    machine_reap(at->machine);
    int domain = machine_find_domain(at->machine, domid, 0);
    int process = domain < 0 ? -1 : process_enter(at->machine, domid);
    machine_unlock(at->machine);
    if (process < 0) {
        machine_detach(at);
        errno = domain < 0 ? ESRCH : EMFILE;
        return -1;
    }
    at->domain = domain;
    at->process = process;
    return 0;
}

void machine_detach(struct attachment *at)
{
    if (at->process < MAX_PROCESSES) {
        struct process *p = &at->machine->processes[at->process];
        machine_lock(at->machine);
        if (--p->opens == 0) process_release(at->machine, at->process);
        machine_unlock(at->machine);
    }
    munmap(at->machine, MACHINE_BYTES);
    close(at->fd);
}
