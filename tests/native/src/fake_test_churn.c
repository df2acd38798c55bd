/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Not a check by itself: `--churn` repeats every operation of the libraries until it is killed. A test kills it at any
 * instruction and verifies that the machine stays consistent. The domain talks to itself here.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xenevtchn.h>
#include <xengnttab.h>

#include "fake_test.h"

enum { PAGES = 3, TURNS = 50 };

static void churn_grants(xengntshr_handle *xgs, xengnttab_handle *xgt, uint32_t self)
{
    uint32_t refs[PAGES];
    unsigned char *shared = xengntshr_share_pages(xgs, self, PAGES, refs, 1);
    CHECK(shared != NULL);
    unsigned char *mapped = xengnttab_map_domain_grant_refs(xgt, PAGES, self, refs, PROT_READ | PROT_WRITE);
    CHECK(mapped != NULL);
    mapped[4096] = 7;
    xengnttab_grant_copy_segment_t s = { .len = 1, .flags = GNTCOPY_source_gref };
    s.source.foreign.ref = refs[1];
    s.source.foreign.domid = self;
    s.dest.virt = shared;
    CHECK(xengnttab_grant_copy(xgt, 1, &s) == 0 && s.status == GNTST_okay && mapped[0] == 7);
    CHECK(xengnttab_unmap(xgt, mapped, PAGES) == 0 && xengntshr_unshare(xgs, shared, PAGES) == 0);
}

static void churn_events(xenevtchn_handle *xce, uint32_t self)
{
    int remote = xenevtchn_bind_unbound_port(xce, self), local = xenevtchn_bind_interdomain(xce, self, remote);
    CHECK(remote > 0 && local > 0);
    uint32_t port;
    CHECK(xenevtchn_pending(xce) == local);
    CHECK(xenevtchn_notify(xce, remote) == 0); /* pending for a masked port */
    port = local;
    CHECK(write(xenevtchn_fd(xce), &port, sizeof port) == sizeof port);
    CHECK(xenevtchn_pending(xce) == local && xenevtchn_unmask(xce, local) == 0);
    CHECK(xenevtchn_unbind(xce, local) == 0 && xenevtchn_unbind(xce, remote) == 0);
}

static void churn(void)
{
    uint32_t self = strtoul(getenv("XENBLK_FAKE_DOMID"), NULL, 10);
    tell(STDOUT_FILENO, 0);
    for (;;) {
        xengntshr_handle *xgs = xengntshr_open(NULL, 0);
        xengnttab_handle *xgt = xengnttab_open(NULL, 0);
        xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
        CHECK(xgs != NULL && xgt != NULL && xce != NULL);
        for (int i = 0; i < TURNS; i++) {
            churn_grants(xgs, xgt, self);
            churn_events(xce, self);
        }
        CHECK(xenevtchn_close(xce) == 0 && xengnttab_close(xgt) == 0 && xengntshr_close(xgs) == 0);
    }
}

const struct test_case churn_cases[] = {
    { "--churn", churn },
    { NULL, NULL },
};
