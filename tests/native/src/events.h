/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Event delivery. A handle's file descriptor is one end of a stream socket pair. Senders fetch the other end from the
 * owner with pidfd_getfd, and write port numbers into it. So read(2), poll(2) and io_uring on the descriptor work as on
 * /dev/xen/evtchn, an event costs the sender one write, and a dead owner shows as EPIPE.
 * To unmask, the owner writes port numbers into its end. They wait in the socket until the next sender reads them, or
 * the handle's thread, if an event is pending for a masked port.
 */
#ifndef FAKE_EVENTS_H
#define FAKE_EVENTS_H

#include "machine.h"

/* A sender's copy of a handle's socket, kept for the life of its port. */
struct sender {
    int fd; /* -1: none */
    uint32_t handle, generation;
};

/* Raises the event of a port's peer. Never fails: an event to a port without a listener is dropped. */
void events_send(struct machine *m, uint32_t process, uint32_t domain, uint32_t number, struct sender *sender);
/* Raises the event of a port itself (a VIRQ, or a port just bound). */
void events_raise(struct machine *m, uint32_t process, uint32_t domain, uint32_t number, struct sender *sender);
void sender_close(struct sender *sender);

void handle_lock(struct machine *m, struct handle *h);
void handle_unlock(struct handle *h);
/* Handles the unmask writes that wait in the socket (`fd`, in this process). The handle's lock is held. */
void events_drain(struct machine *m, struct handle *h, int fd);

/* Closes a port. This port's domain can bind to the peer again. The machine's lock is held. */
void port_close(struct machine *m, uint32_t domain, uint32_t number);
/* A free port of a domain, or 0. The machine's lock is held. */
uint32_t port_find_free(struct domain *d);
/* Closes all ports of a handle and frees its slot. The machine's lock is held. */
void handle_release(struct machine *m, uint32_t index);

#endif
