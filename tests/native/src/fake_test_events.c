/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The contract of event channels: domain 1 (a second process) creates a port, domain 0 (this process) binds to it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <xenevtchn.h>

#include "fake_test.h"

enum { QUIT, NOTIFY, AWAIT, MAKE }; /* orders to the other process */

/* Domain 1: executes orders with the port that it created last. Each answer is that port, or the port that fired. */
static void partner(int channel)
{
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    CHECK(xce != NULL);
    uint32_t command, port = 0;
    while ((command = hear(channel)) != QUIT) {
        uint32_t answer;
        if (command == MAKE) port = xenevtchn_bind_unbound_port(xce, 0);
        if (command == NOTIFY) CHECK(xenevtchn_notify(xce, port) == 0);
        answer = command == AWAIT ? (uint32_t)xenevtchn_pending(xce) : port;
        if (command == AWAIT) CHECK(xenevtchn_unmask(xce, answer) == 0);
        tell(channel, answer);
    }
    CHECK(xenevtchn_close(xce) == 0);
}

static uint32_t ask(struct peer *peer, uint32_t command)
{
    tell(peer->channel, command);
    return hear(peer->channel);
}

static void quit(struct peer *peer)
{
    tell(peer->channel, QUIT);
    peer_join(peer);
}

static xenevtchn_handle *open_nonblocking(void)
{
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    CHECK(xce != NULL);
    CHECK(fcntl(xenevtchn_fd(xce), F_SETFL, fcntl(xenevtchn_fd(xce), F_GETFL) | O_NONBLOCK) == 0);
    return xce;
}

/* Reads the queued ports, at most `room`. Returns 0 after `timeout_ms` without any. */
static int take(xenevtchn_handle *xce, uint32_t *ports, int room, int timeout_ms)
{
    struct pollfd wait = { .fd = xenevtchn_fd(xce), .events = POLLIN };
    if (poll(&wait, 1, timeout_ms) == 0) {
        CHECK_ERRNO(read(wait.fd, ports, room * sizeof *ports) == -1, EAGAIN);
        return 0;
    }
    CHECK(wait.revents == POLLIN);
    ssize_t length = read(wait.fd, ports, room * sizeof *ports);
    CHECK(length > 0 && length % sizeof *ports == 0);
    return length / sizeof *ports;
}

static void unmask(xenevtchn_handle *xce, uint32_t *ports, int count)
{
    CHECK(write(xenevtchn_fd(xce), ports, count * sizeof *ports) == (ssize_t)(count * sizeof *ports));
}

/* Binds and takes the event that binding raises. */
static uint32_t bind_quietly(xenevtchn_handle *xce, uint32_t remote)
{
    uint32_t heard[4];
    int port = xenevtchn_bind_interdomain(xce, 1, remote);
    CHECK(port > 0);
    CHECK(take(xce, heard, 4, 1000) == 1 && heard[0] == (uint32_t)port);
    unmask(xce, heard, 1);
    return port;
}

static void binding_raises_the_local_port_once(void)
{
    uint32_t heard[4];
    struct peer peer = peer_start(1, partner);
    xenevtchn_handle *xce = open_nonblocking();
    uint32_t remote = ask(&peer, MAKE);
    uint32_t local = bind_quietly(xce, remote);
    CHECK(take(xce, heard, 4, 50) == 0);
    CHECK(xenevtchn_notify(xce, local) == 0 && ask(&peer, AWAIT) == remote);
    ask(&peer, NOTIFY);
    CHECK(take(xce, heard, 4, 1000) == 1 && heard[0] == local);
    CHECK(xenevtchn_close(xce) == 0);
    quit(&peer);
}

static void binding_errors_are_those_of_xen(void)
{
    struct peer peer = peer_start(1, partner);
    xenevtchn_handle *xce = open_nonblocking();
    uint32_t remote = ask(&peer, MAKE);
    CHECK_ERRNO(xenevtchn_bind_interdomain(xce, 1, remote + 1) == -1, EINVAL);
    CHECK_ERRNO(xenevtchn_bind_interdomain(xce, 1, 1000000) == -1, EINVAL);
    CHECK_ERRNO(xenevtchn_bind_interdomain(xce, 4000, remote) == -1, ESRCH);
    setenv("XENBLK_FAKE_DOMID", "2", 1);
    xenevtchn_handle *other = xenevtchn_open(NULL, 0);
    CHECK_ERRNO(xenevtchn_bind_interdomain(other, 1, remote) == -1, EINVAL); /* only domain 0 may bind it */
    uint32_t local = bind_quietly(xce, remote);
    CHECK_ERRNO(xenevtchn_bind_interdomain(xce, 1, remote) == -1, EINVAL); /* bound already */
    CHECK_ERRNO(xenevtchn_notify(other, local) == -1, ENOTCONN);
    CHECK(xenevtchn_unbind(xce, local) == 0);
    CHECK_ERRNO(xenevtchn_notify(xce, local) == -1, ENOTCONN);
    CHECK_ERRNO(xenevtchn_unbind(xce, local) == -1, ENOTCONN);
    bind_quietly(xce, remote); /* unbinding made it bindable again */
    xenevtchn_close(other);
    xenevtchn_close(xce);
    quit(&peer);
}

static void notifies_merge_and_an_event_masks_its_port(void)
{
    uint32_t heard[8];
    struct peer peer = peer_start(1, partner);
    xenevtchn_handle *xce = open_nonblocking();
    uint32_t local = bind_quietly(xce, ask(&peer, MAKE));
    for (int by_write = 0; by_write < 2; by_write++) {
        for (int i = 0; i < 5; i++) ask(&peer, NOTIFY);
        CHECK(take(xce, heard, 8, 1000) == 1 && heard[0] == local);
        CHECK(take(xce, heard, 8, 50) == 0); /* four more came, but the port is masked */
        for (int i = 0; i < 2; i++) {
            if (by_write)
                unmask(xce, &local, 1);
            else
                CHECK(xenevtchn_unmask(xce, local) == 0);
            /* The first unmask delivers the four as one. The second delivers nothing. */
            CHECK(take(xce, heard, 8, i == 0 ? 1000 : 50) == (i == 0));
        }
    }
    xenevtchn_close(xce);
    quit(&peer);
}

static void many_ports_go_in_one_read_and_one_write(void)
{
    enum { COUNT = 100, ROUNDS = 20 };
    uint32_t heard[2 * COUNT], locals[COUNT], remotes[COUNT], seen[COUNT] = { 0 };
    xenevtchn_handle *xce = open_nonblocking(), *sender = open_nonblocking(); /* domain 0 sends to itself */
    for (int i = 0; i < COUNT; i++) {
        int remote = xenevtchn_bind_unbound_port(sender, 0), local = xenevtchn_bind_interdomain(xce, 0, remote);
        CHECK(remote > 0 && local > 0);
        remotes[i] = remote;
        locals[i] = local;
    }
    CHECK(take(xce, heard, 2 * COUNT, 1000) == COUNT); /* the events of binding */
    unmask(xce, heard, COUNT);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < COUNT; i++) CHECK(xenevtchn_notify(sender, remotes[i]) == 0);
        CHECK(take(xce, heard, 2 * COUNT, 1000) == COUNT);
        for (int i = 0; i < COUNT; i++)
            for (int k = 0; k < COUNT; k++) seen[k] += heard[i] == locals[k];
        unmask(xce, heard, COUNT);
    }
    for (int k = 0; k < COUNT; k++) CHECK(seen[k] == ROUNDS);
    CHECK(take(xce, heard, 2 * COUNT, 50) == 0);
    xenevtchn_close(sender);
    xenevtchn_close(xce);
}

/* Domain 0: binds to the port that it is sent, answers with its own port, returns an event, and stays. */
static void binder(int channel)
{
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    int port = xenevtchn_bind_interdomain(xce, 1, hear(channel));
    tell(channel, port > 0 ? port : -errno);
    if (port < 0) return;
    CHECK(xenevtchn_pending(xce) == port && xenevtchn_unmask(xce, port) == 0);
    CHECK(xenevtchn_notify(xce, port) == 0);
    tell(channel, port);
    pause();
}

static void a_dead_backends_port_can_be_bound_again(void)
{
    xenevtchn_handle *xce;
    uint32_t heard[4];
    setenv("XENBLK_FAKE_DOMID", "1", 1); /* this process is the frontend here */
    xce = open_nonblocking();
    int port = xenevtchn_bind_unbound_port(xce, 0);
    for (int round = 0; round < 3; round++) {
        struct peer backend = peer_start(0, binder);
        tell(backend.channel, port);
        CHECK(hear(backend.channel) > 0); /* bound, although a backend is killed in each round */
        CHECK(xenevtchn_notify(xce, port) == 0);
        hear(backend.channel);
        CHECK(take(xce, heard, 4, 1000) == 1 && heard[0] == (uint32_t)port);
        unmask(xce, heard, 1);
        if (round == 1) kill(backend.pid, SIGSTOP); /* a stopped process is alive: nobody else may bind */
        if (round == 1) {
            struct peer second = peer_start(0, binder);
            tell(second.channel, port);
            CHECK((int)hear(second.channel) == -EINVAL);
            peer_join(&second);
            CHECK(xenevtchn_notify(xce, port) == 0);
        }
        peer_kill(&backend);
        CHECK(xenevtchn_notify(xce, port) == 0); /* nobody listens */
        CHECK(take(xce, heard, 4, 20) == 0);
    }
    xenevtchn_close(xce);
}

static void a_restricted_handle_knows_one_domain(void)
{
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    CHECK_ERRNO(xenevtchn_restrict(xce, 0) == -1, EINVAL);
    CHECK(xenevtchn_restrict(xce, 1) == 0);
    CHECK_ERRNO(xenevtchn_restrict(xce, 1) == -1, EACCES);
    CHECK_ERRNO(xenevtchn_bind_interdomain(xce, 2, 1) == -1, EACCES);
    CHECK_ERRNO(xenevtchn_bind_unbound_port(xce, 2) == -1, EACCES);
    CHECK_ERRNO(xenevtchn_bind_virq(xce, 7) == -1, EACCES);
    CHECK(xenevtchn_bind_unbound_port(xce, 1) > 0);
    xenevtchn_close(xce);
}

static void a_virq_is_bound_once(void)
{
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    int port = xenevtchn_bind_virq(xce, 7);
    CHECK(port > 0);
    CHECK_ERRNO(xenevtchn_bind_virq(xce, 7) == -1, EEXIST);
    CHECK(xenevtchn_unbind(xce, port) == 0);
    CHECK(xenevtchn_bind_virq(xce, 7) > 0);
    xenevtchn_close(xce);
}

/* Two counters that both processes of the storm share. */
static _Atomic uint32_t *sent;

/* Domain 1: counts up and notifies each time, faster than the other side can read. */
static void storm(int channel)
{
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    uint32_t port = xenevtchn_bind_unbound_port(xce, 0), rounds;
    tell(channel, port);
    rounds = hear(channel);
    for (uint32_t i = 0; i < rounds; i++) {
        ++*sent;
        CHECK(xenevtchn_notify(xce, port) == 0);
        if (i % 64 == 0) usleep(i % 3 * 50);
    }
    hear(channel);
    xenevtchn_close(xce);
}

static void no_event_is_lost_in_a_storm(void)
{
    enum { ROUNDS = 100000 };
    uint32_t heard[64], seen = 0, wakeups = 0;
    sent = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct peer peer = peer_start(1, storm);
    xenevtchn_handle *xce = open_nonblocking();
    uint32_t local = bind_quietly(xce, hear(peer.channel));
    tell(peer.channel, ROUNDS);
    while (seen < ROUNDS) {
        int count = take(xce, heard, 64, 5000);
        CHECK(count == 1 && heard[0] == local); /* no event within 5 s: a wake-up was lost */
        unmask(xce, heard, 1);
        seen = *sent; /* after the unmask, when a backend checks its ring */
        wakeups++;
    }
    CHECK(wakeups <= ROUNDS + 1);
    tell(peer.channel, 0);
    peer_join(&peer);
    xenevtchn_close(xce);
}

/* Domain 1: answers every event with one. */
static void echo(int channel)
{
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    uint32_t port = xenevtchn_bind_unbound_port(xce, 0);
    tell(channel, port);
    for (;;) {
        CHECK(read(xenevtchn_fd(xce), &port, 4) == 4 && write(xenevtchn_fd(xce), &port, 4) == 4);
        CHECK(xenevtchn_notify(xce, port) == 0);
    }
}

/* Not a check by itself: prints the round-trip time of an event in microseconds. */
static void latency(void)
{
    enum { ROUNDS = 20000 };
    struct timespec start, end;
    struct peer peer = peer_start(1, partner);
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    int local = xenevtchn_bind_interdomain(xce, 1, ask(&peer, MAKE));
    CHECK(xenevtchn_pending(xce) == local && xenevtchn_unmask(xce, local) == 0);
    peer_kill(&peer);
    peer = peer_start(1, echo);
    local = xenevtchn_bind_interdomain(xce, 1, hear(peer.channel));
    uint32_t port = local;
    CHECK(xenevtchn_pending(xce) == local && xenevtchn_unmask(xce, local) == 0);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < ROUNDS; i++) {
        CHECK(xenevtchn_notify(xce, local) == 0);
        CHECK(read(xenevtchn_fd(xce), &port, 4) == 4 && port == (uint32_t)local);
        CHECK(write(xenevtchn_fd(xce), &port, 4) == 4);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.2f\n", ((end.tv_sec - start.tv_sec) * 1e6 + (end.tv_nsec - start.tv_nsec) / 1e3) / ROUNDS);
    peer_kill(&peer);
    xenevtchn_close(xce);
}

const struct test_case event_cases[] = {
    { "binding raises the local port once, and both ends reach each other", binding_raises_the_local_port_once },
    { "a port binds once, only for its domain, with Xen's errors", binding_errors_are_those_of_xen },
    { "notifies merge, and an event masks its port until unmask", notifies_merge_and_an_event_masks_its_port },
    { "many ports go in one read and one write", many_ports_go_in_one_read_and_one_write },
    { "a killed backend's port can be bound again", a_dead_backends_port_can_be_bound_again },
    { "a restricted handle reaches one domain only", a_restricted_handle_knows_one_domain },
    { "a VIRQ is bound once", a_virq_is_bound_once },
    { "no event is lost in a storm", no_event_is_lost_in_a_storm },
    { "--latency", latency },
    { NULL, NULL },
};
