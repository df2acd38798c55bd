/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Delivers events between the handles of processes; masks, opens and closes ports.
 */
#define _GNU_SOURCE
#include "events.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Unmask writes are read at least once per this many events, so that the owner's writes never block. */
#define DRAIN_EVERY 64

static void owe(struct handle *h)
{
    if (atomic_fetch_add(&h->owed, 1) == 0) syscall(SYS_futex, &h->owed, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Puts an event into the owner's queue. Returns 0 if that failed. */
static int queue_event(struct handle *h, uint32_t number, int fd)
{
    if (send(fd, &number, sizeof number, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof number) return 0;
    h->undrained++;
    return 1;
}

/* Queues a port's event unless the port is masked. -1: the owner is gone. The handle's lock is held. */
static int deliver(struct machine *m, struct handle *h, uint32_t number, int fd)
{
    struct port *p = &m->domains[h->domain].ports[number];
    if (p->masked || h->undrained >= DRAIN_EVERY) events_drain(m, h, fd);
    if (p->masked) {
        if (!p->pending) {
            p->pending = 1;
            owe(h);
        }
        return 0;
    }
    if (!queue_event(h, number, fd)) return errno == EPIPE || errno == ECONNRESET ? -1 : 0;
    p->masked = 1; /* after the send: a sender that dies in between leaves an extra event, never a lost one */
    return 0;
}

/* Unmasks one port, and delivers an event that came meanwhile. The handle's lock is held. */
static void events_unmask(struct machine *m, struct handle *h, uint32_t number, int fd)
{
    struct port *p = &m->domains[h->domain].ports[number];
    if (!p->masked) return;
    if (!p->pending) {
        p->masked = 0;
        return;
    }
    /* A delivered event masks the port again. It stays pending until then, because this process may die in between. */
    if (!queue_event(h, number, fd)) p->masked = 0;
    p->pending = 0;
    atomic_fetch_sub(&h->owed, 1);
}

void events_drain(struct machine *m, struct handle *h, int fd)
{
    uint32_t numbers[256];
    ssize_t length;
    uint32_t self = h - m->handles + 1;
    h->undrained = 0;
    do {
        /* Removed only after they are handled: if this process dies in between, the next one handles them. */
        length = recv(fd, numbers, sizeof numbers, MSG_DONTWAIT | MSG_PEEK);
        for (ssize_t i = 0; i < length / (ssize_t)sizeof numbers[0]; i++)
            if (numbers[i] < MAX_PORTS && m->domains[h->domain].ports[numbers[i]].handle == self)
                events_unmask(m, h, numbers[i], fd);
        if (length > 0) recv(fd, numbers, length - length % sizeof numbers[0], MSG_DONTWAIT);
    } while (length == sizeof numbers);
}

void handle_lock(struct machine *m, struct handle *h)
{
    if (!robust_lock(&h->lock)) return;
    uint32_t owed = 0; /* a process died while it held the lock: count again */
    for (uint32_t number = 1; number < MAX_PORTS; number++) {
        struct port *p = &m->domains[h->domain].ports[number];
        if (p->handle == h - m->handles + 1 && p->masked && p->pending) owed++;
    }
    h->owed = owed;
    syscall(SYS_futex, &h->owed, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void handle_unlock(struct handle *h) { pthread_mutex_unlock(&h->lock); }

void sender_close(struct sender *sender)
{
    if (sender->fd >= 0) close(sender->fd);
    sender->fd = -1;
}

/* The handle's socket as a descriptor of this process; -1 if its owner is gone. The handle's lock is held. */
static int sender_fd(struct machine *m, struct handle *h, uint32_t process, struct sender *sender)
{
    uint32_t index = h - m->handles;
    struct process *owner = &m->processes[h->process];
    if (h->process == process) return h->socket;
    if (sender->fd >= 0 && sender->handle == index && sender->generation == h->generation) return sender->fd;
    sender_close(sender);
    int pidfd = syscall(SYS_pidfd_open, owner->pid, 0);
    if (pidfd < 0) return -1;
    /* An open pidfd prevents the reuse of the pid, so this check stays valid. */
    if (process_start_time(owner->pid) == owner->start_time)
        sender->fd = syscall(SYS_pidfd_getfd, pidfd, h->socket, 0);
    close(pidfd);
    sender->handle = index;
    sender->generation = h->generation;
    return sender->fd;
}

void events_raise(struct machine *m, uint32_t process, uint32_t domain, uint32_t number, struct sender *sender)
{
    struct port *p = &m->domains[domain].ports[number];
    uint32_t owner = p->handle;
    if (owner == 0) return;
    struct handle *h = &m->handles[owner - 1];
    handle_lock(m, h);
    if (p->handle == owner && h->used && h->domain == domain) {
        int fd = sender_fd(m, h, process, sender);
        if (fd >= 0) deliver(m, h, number, fd);
    }
    handle_unlock(h);
}

void events_send(struct machine *m, uint32_t process, uint32_t domain, uint32_t number, struct sender *sender)
{
    uint64_t link = m->domains[domain].ports[number].link;
    if (link_state(link) != PORT_INTERDOMAIN) return;
    uint32_t peer_domain = link_domain(link), peer_number = link_number(link);
    struct port *peer = &m->domains[peer_domain].ports[peer_number];
    if (peer->link == port_link(PORT_INTERDOMAIN, domain, number))
        events_raise(m, process, peer_domain, peer_number, sender);
}

uint32_t port_find_free(struct domain *d)
{
    for (uint32_t number = 1; number < MAX_PORTS; number++)
        if (link_state(d->ports[number].link) == PORT_FREE) return number;
    return 0;
}

void port_close(struct machine *m, uint32_t domain, uint32_t number)
{
    struct port *p = &m->domains[domain].ports[number];
    uint64_t link = p->link;
    uint32_t owner = p->handle;
    struct handle *h = owner == 0 ? NULL : &m->handles[owner - 1];
    if (link_state(link) == PORT_INTERDOMAIN) {
        /* First, and only if it points back: a process may have died between any two of these lines. */
        struct port *peer = &m->domains[link_domain(link)].ports[link_number(link)];
        if (peer->link == port_link(PORT_INTERDOMAIN, domain, number))
            peer->link = port_link(PORT_UNBOUND, m->domains[domain].domid, 0);
    }
    if (h != NULL) handle_lock(m, h);
    if (h != NULL && p->masked && p->pending) atomic_fetch_sub(&h->owed, 1);
    p->link = 0;
    p->handle = 0;
    p->masked = p->pending = 0;
    if (h != NULL) handle_unlock(h);
}

void handle_release(struct machine *m, uint32_t index)
{
    struct handle *h = &m->handles[index];
    for (uint32_t number = 1; number < MAX_PORTS; number++)
        if (m->domains[h->domain].ports[number].handle == index + 1) port_close(m, h->domain, number);
    handle_lock(m, h);
    h->used = 0;
    h->generation++;
    h->socket = -1;
    h->owed = h->undrained = h->restricted = 0;
    handle_unlock(h);
}
