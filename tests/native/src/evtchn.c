/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A stand-in for libxenevtchn.so.1 on the simulated machine. Errors are those of Linux's /dev/xen/evtchn and of its
 * hypercalls. xenevtchn_fdopen (xenstored's live update) is not supported.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xenevtchn.h>

#include "events.h"
#include "machine.h"

struct xenevtchn_handle {
    struct attachment at;
    int fd;             /* the application's end */
    int socket;         /* the senders' end */
    uint32_t index;     /* of the shared handle */
    _Atomic int closing;
    pthread_t thread;
    pthread_mutex_t lock; /* guards senders against other threads that use the handle */
    struct sender senders[MAX_PORTS];
};

static struct handle *shared(xenevtchn_handle *xce) { return &xce->at.machine->handles[xce->index]; }
static struct port *ports(xenevtchn_handle *xce) { return xce->at.machine->domains[xce->at.domain].ports; }

/* While an event is pending for a masked port, waits for the application's unmask writes; otherwise sleeps. */
static void *serve(void *argument)
{
    xenevtchn_handle *xce = argument;
    struct handle *h = shared(xce);
    prctl(PR_SET_NAME, "fake-evtchn");
    while (!xce->closing) {
        syscall(SYS_futex, &h->owed, FUTEX_WAIT, 0, NULL, NULL, 0);
        if (h->owed == 0 || xce->closing) continue;
        struct pollfd wait = { .fd = xce->socket, .events = POLLIN };
        poll(&wait, 1, -1);
        if (xce->closing) break;
        handle_lock(xce->at.machine, h);
        events_drain(xce->at.machine, h, xce->socket);
        handle_unlock(h);
    }
    return NULL;
}

static int start_thread(xenevtchn_handle *xce)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the application's threads */
    int rc = pthread_create(&xce->thread, &attributes, serve, xce);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return rc;
}

static int take_handle(xenevtchn_handle *xce)
{
    struct machine *m = xce->at.machine;
    machine_lock(m);
    for (uint32_t i = 0; i < MAX_HANDLES; i++) {
        struct handle *h = &m->handles[i];
        if (h->used) continue;
        h->process = xce->at.process;
        h->domain = xce->at.domain;
        h->socket = xce->socket;
        h->owed = h->undrained = h->restricted = 0;
        h->used = 1;
        xce->index = i;
        machine_unlock(m);
        return 0;
    }
    machine_unlock(m);
    errno = EMFILE;
    return -1;
}

static int make_sockets(xenevtchn_handle *xce, unsigned int flags)
{
    int pair[2], size = 4 << 20;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return -1;
    for (int i = 0; i < 2; i++)
        if (setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
            setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (flags & XENEVTCHN_NO_CLOEXEC) fcntl(pair[0], F_SETFD, 0);
    xce->fd = pair[0];
    xce->socket = pair[1];
    /* Lets senders of the same user fetch the socket even if Yama restricts that. */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    return 0;
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned int flags)
{
    (void)logger;
    xenevtchn_handle *xce = calloc(1, sizeof *xce);
    if (xce == NULL) return NULL;
    if (machine_attach(&xce->at) < 0) goto no_machine;
    if (make_sockets(xce, flags) < 0) goto no_sockets;
    if (take_handle(xce) < 0) goto no_handle;
    for (int i = 0; i < MAX_PORTS; i++) xce->senders[i].fd = -1;
    pthread_mutex_init(&xce->lock, NULL);
    if (start_thread(xce) == 0) return xce;
    machine_lock(xce->at.machine);
    handle_release(xce->at.machine, xce->index);
    machine_unlock(xce->at.machine);
    errno = EAGAIN;
no_handle:
    close(xce->fd);
    close(xce->socket);
no_sockets:
    machine_detach(&xce->at);
no_machine:
    free(xce);
    return NULL;
}

xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned flags)
{
    (void)logger, (void)fd, (void)flags;
    errno = EOPNOTSUPP;
    return NULL;
}

int xenevtchn_close(xenevtchn_handle *xce)
{
    if (xce == NULL) return 0;
    struct handle *h = shared(xce);
    xce->closing = 1;
    atomic_fetch_add(&h->owed, 1);
    syscall(SYS_futex, &h->owed, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    shutdown(xce->socket, SHUT_RDWR);
    pthread_join(xce->thread, NULL);
    machine_lock(xce->at.machine);
    handle_release(xce->at.machine, xce->index);
    machine_unlock(xce->at.machine);
    for (int i = 0; i < MAX_PORTS; i++) sender_close(&xce->senders[i]);
    close(xce->fd);
    close(xce->socket);
    machine_detach(&xce->at);
    free(xce);
    return 0;
}

int xenevtchn_fd(xenevtchn_handle *xce) { return xce->fd; }

static int owns(xenevtchn_handle *xce, evtchn_port_t port)
{
    if (port < MAX_PORTS && ports(xce)[port].handle == xce->index + 1) return 1;
    errno = port < MAX_PORTS ? ENOTCONN : EINVAL;
    return 0;
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    struct machine *m = xce->at.machine;
    pthread_mutex_lock(&xce->lock);
    int mine = owns(xce, port);
    if (mine) events_send(m, xce->at.process, xce->at.domain, port, &xce->senders[port]);
    pthread_mutex_unlock(&xce->lock);
    if (!mine) return -1;
    atomic_fetch_add_explicit(&m->processes[xce->at.process].notifies, 1, memory_order_relaxed);
    return 0;
}

/* Takes a free port of this domain for the handle, unmasked and not linked yet; 0 with errno. The lock is held. */
static uint32_t take_port(xenevtchn_handle *xce)
{
    struct machine *m = xce->at.machine;
    uint32_t number = 0;
    errno = ESRCH;
    if (m->domains[xce->at.domain].state == DOMAIN_ALIVE) {
        number = port_find_free(&m->domains[xce->at.domain]);
        errno = ENOSPC;
    }
    if (number != 0) ports(xce)[number].handle = xce->index + 1;
    return number;
}

xenevtchn_port_or_error_t xenevtchn_bind_unbound_port(xenevtchn_handle *xce, uint32_t domid)
{
    uint32_t restricted = shared(xce)->restricted;
    if (restricted != 0 && restricted != domid + 1) {
        errno = EACCES;
        return -1;
    }
    machine_lock(xce->at.machine);
    uint32_t number = take_port(xce);
    if (number != 0) ports(xce)[number].link = port_link(PORT_UNBOUND, domid, 0);
    machine_unlock(xce->at.machine);
    return number == 0 ? -1 : (xenevtchn_port_or_error_t)number;
}

/* True if this handle's domain may bind to the port of that domain's slot. The lock is held. */
static int bindable(xenevtchn_handle *xce, int remote, uint32_t remote_port)
{
    struct machine *m = xce->at.machine;
    uint64_t free_for_us = port_link(PORT_UNBOUND, m->domains[xce->at.domain].domid, 0);
    if (remote < 0 || remote_port == 0 || remote_port >= MAX_PORTS) return 0;
    if (m->domains[remote].ports[remote_port].link == free_for_us) return 1;
    machine_reap(m); /* a dead process may still have the port bound */
    return m->domains[remote].ports[remote_port].link == free_for_us;
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid, evtchn_port_t remote_port)
{
    struct machine *m = xce->at.machine;
    uint32_t restricted = shared(xce)->restricted, number = 0;
    struct sender none = { .fd = -1 };
    if (restricted != 0 && restricted != domid + 1) {
        errno = EACCES;
        return -1;
    }
    machine_lock(m);
    int remote = machine_find_domain(m, domid, 0);
    if (bindable(xce, remote, remote_port)) {
        number = take_port(xce);
        if (number != 0) {
            ports(xce)[number].link = port_link(PORT_INTERDOMAIN, remote, remote_port);
            m->domains[remote].ports[remote_port].link = port_link(PORT_INTERDOMAIN, xce->at.domain, number);
        }
    } else {
        errno = remote < 0 ? ESRCH : EINVAL;
    }
    machine_unlock(m);
    if (number == 0) return -1;
    /* The other side may have notified before we were bound: Xen raises the local port once. */
    events_raise(m, xce->at.process, xce->at.domain, number, &none);
    return (xenevtchn_port_or_error_t)number;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *xce, unsigned int virq)
{
    uint64_t link = port_link(PORT_VIRQ, 0, virq);
    if (shared(xce)->restricted != 0) {
        errno = EACCES;
        return -1;
    }
    machine_lock(xce->at.machine);
    machine_reap(xce->at.machine);
    uint32_t number = 0, taken = 0;
    for (uint32_t i = 1; i < MAX_PORTS; i++) taken |= ports(xce)[i].link == link;
    if (!taken) number = take_port(xce);
    if (number != 0) ports(xce)[number].link = link;
    if (taken) errno = EEXIST;
    machine_unlock(xce->at.machine);
    return number == 0 ? -1 : (xenevtchn_port_or_error_t)number;
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
    pthread_mutex_lock(&xce->lock);
    machine_lock(xce->at.machine);
    int mine = owns(xce, port);
    if (mine) {
        port_close(xce->at.machine, xce->at.domain, port);
        sender_close(&xce->senders[port]);
    }
    machine_unlock(xce->at.machine);
    pthread_mutex_unlock(&xce->lock);
    return mine ? 0 : -1;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *xce)
{
    evtchn_port_t port;
    ssize_t length = read(xce->fd, &port, sizeof port);
    return length == sizeof port ? (xenevtchn_port_or_error_t)port : -1;
}

/* A system call, as in the real library: a program that uses it must not be faster here than one that writes itself. */
int xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t port)
{
    return write(xce->fd, &port, sizeof port) == sizeof port ? 0 : -1;
}

int xenevtchn_restrict(xenevtchn_handle *xce, domid_t domid)
{
    struct handle *h = shared(xce);
    errno = h->restricted != 0 ? EACCES : EINVAL;
    if (h->restricted != 0 || domid == 0 || domid >= DOMID_FIRST_RESERVED) return -1;
    h->restricted = (uint32_t)domid + 1;
    return 0;
}
