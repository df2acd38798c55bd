/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The toolstack's work in xenstore for the simulated domains, through the real libxenstore: the nodes and permissions
 * that libxl gives a PV guest.
 */
#include "fakectl.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xenstore.h>

#include "machine.h"

/* A failure is remembered, so that a list of writes needs one check at its end. */
struct session {
    struct xs_handle *xs;
    xs_transaction_t transaction;
    bool failed;
};

static int complain(const char *what)
{
    fprintf(stderr, "Cannot %s: %s\n", what, strerror(errno));
    return -1;
}

static void put(struct session *s, const char *path, const char *value, struct xs_permissions *permissions, int count)
{
    bool ok = value == NULL ? xs_mkdir(s->xs, s->transaction, path)
                            : xs_write(s->xs, s->transaction, path, value, strlen(value));
    if (!ok || (count > 0 && !xs_set_permissions(s->xs, s->transaction, path, permissions, count))) {
        if (!s->failed) fprintf(stderr, "Cannot write %s: %s\n", path, strerror(errno));
        s->failed = true;
    }
}

/* Runs `body` in transactions until one commits. */
static int transact(struct xs_handle *xs, void (*body)(struct session *, const void *), const void *argument)
{
    for (;;) {
        struct session s = { .xs = xs, .transaction = xs_transaction_start(xs) };
        if (s.transaction == XBT_NULL) return complain("start a transaction");
        body(&s, argument);
        bool committed = xs_transaction_end(xs, s.transaction, s.failed);
        if (s.failed) return -1;
        if (committed) return 0;
        if (errno != EAGAIN) return complain("commit a transaction");
    }
}

static struct xs_handle *connect_store(void)
{
    struct xs_handle *xs = xs_open(0);
    if (xs == NULL) complain("connect to xenstored");
    return xs;
}

static void put_init(struct session *s, const void *unused)
{
    (void)unused;
    put(s, "/local/domain/0/domid", "0", NULL, 0);
    put(s, "/local/domain/0/name", "Domain-0", NULL, 0);
    put(s, "/libxl/0/type", "pv", NULL, 0);
}

int store_init(void)
{
    struct xs_handle *xs = connect_store();
    if (xs == NULL) return -1;
    int rc = transact(xs, put_init, NULL);
    xs_close(xs);
    return rc;
}

int store_introduce(uint32_t domid, uint32_t port)
{
    struct xs_handle *xs = connect_store();
    if (xs == NULL) return -1;
    int rc = xs_introduce_domain(xs, domid, 0, port) ? 0 : complain("introduce the domain to xenstored");
    xs_close(xs);
    return rc;
}

struct guest {
    uint32_t domid, port;
    const char *name, *uuid;
};

static void put_guest(struct session *s, const void *argument)
{
    const struct guest *g = argument;
    struct xs_permissions read_only[] = { { 0, XS_PERM_NONE }, { g->domid, XS_PERM_READ } };
    struct xs_permissions owned[] = { { g->domid, XS_PERM_NONE } };
    static const char *const read_only_nodes[] = { "cpu", "memory", "device", "control", "store", "console" };
    static const char *const owned_nodes[] = { "control/shutdown", "device/suspend/event-channel", "data", "drivers",
                                               "feature", "attr", "error" };
    char path[256], vm[64], text[32];
#define AT(...) (snprintf(path, sizeof path, __VA_ARGS__), path)
    snprintf(vm, sizeof vm, "/vm/%s", g->uuid);
    put(s, vm, NULL, read_only, 2);
    put(s, AT("%s/uuid", vm), g->uuid, NULL, 0);
    put(s, AT("%s/name", vm), g->name, NULL, 0);
    put(s, AT("/local/domain/%u", g->domid), NULL, read_only, 2);
    for (size_t i = 0; i < sizeof read_only_nodes / sizeof read_only_nodes[0]; i++)
        put(s, AT("/local/domain/%u/%s", g->domid, read_only_nodes[i]), NULL, read_only, 2);
    for (size_t i = 0; i < sizeof owned_nodes / sizeof owned_nodes[0]; i++)
        put(s, AT("/local/domain/%u/%s", g->domid, owned_nodes[i]), "", owned, 1);
    put(s, AT("/local/domain/%u/vm", g->domid), vm, NULL, 0);
    put(s, AT("/local/domain/%u/name", g->domid), g->name, NULL, 0);
    snprintf(text, sizeof text, "%u", g->domid);
    put(s, AT("/local/domain/%u/domid", g->domid), text, NULL, 0);
    snprintf(text, sizeof text, "%u", g->port);
    put(s, AT("/local/domain/%u/store/port", g->domid), text, NULL, 0);
    put(s, AT("/local/domain/%u/store/ring-ref", g->domid), "1", NULL, 0);
    put(s, AT("/libxl/%u/type", g->domid), "pv", NULL, 0);
    put(s, AT("/libxl/%u/device", g->domid), NULL, NULL, 0);
}

int store_create(uint32_t domid, const char *name, const char *uuid, uint32_t port)
{
    struct guest guest = { .domid = domid, .port = port, .name = name, .uuid = uuid };
    struct xs_handle *xs = connect_store();
    if (xs == NULL) return -1;
    int rc = transact(xs, put_guest, &guest);
    xs_close(xs);
    return rc == 0 ? store_introduce(domid, port) : rc;
}

static void remove_guest(struct session *s, const void *argument)
{
    uint32_t domid = *(const uint32_t *)argument;
    char path[256];
    unsigned int length;
    char *vm = xs_read(s->xs, s->transaction, AT("/local/domain/%u/vm", domid), &length);
    if (vm != NULL) xs_rm(s->xs, s->transaction, vm);
    free(vm);
    xs_rm(s->xs, s->transaction, AT("/local/domain/%u", domid));
    xs_rm(s->xs, s->transaction, AT("/libxl/%u", domid));
}

int store_destroy(uint32_t domid)
{
    struct xs_handle *xs = connect_store();
    if (xs == NULL) return -1;
    /* Fails if xenstored has already noticed the death. */
    xs_release_domain(xs, domid);
    int rc = transact(xs, remove_guest, &domid);
    xs_close(xs);
    return rc;
}
