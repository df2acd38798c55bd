/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A stand-in for libxencall.so.1 with one hypercall: which domains exist. xenstored makes it through libxenctrl. Every
 * other hypercall fails with ENOSYS. The structures come from the installed libxen-dev, so that they fit the installed
 * libxenctrl.
 */
#define _GNU_SOURCE
#define __XEN_TOOLS__ 1
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xen/xen.h>
#include <xen/domctl.h>
#include <xen/sysctl.h>
#include <xencall.h>

#include "grants.h"
#include "machine.h"

struct xencall_handle {
    struct attachment at;
};

xencall_handle *xencall_open(struct xentoollog_logger *logger, unsigned open_flags)
{
    (void)logger, (void)open_flags;
    xencall_handle *xcall = calloc(1, sizeof *xcall);
    if (xcall != NULL && machine_attach(&xcall->at) == 0) return xcall;
    free(xcall);
    return NULL;
}

int xencall_close(xencall_handle *xcall)
{
    if (xcall == NULL) return 0;
    machine_detach(&xcall->at);
    free(xcall);
    return 0;
}

int xencall_fd(xencall_handle *xcall) { return xcall->at.fd; }

/* A dead domain exists as long as its pages are mapped. */
static int exists(struct machine *m, uint32_t slot)
{
    uint32_t state = m->domains[slot].state;
    return state == DOMAIN_ALIVE || (state == DOMAIN_DEAD && grants_in_use(m, slot));
}

/* The slot of the first domain with an id of `from` or more, or -1. The machine's lock is held. */
static int next_domain(struct machine *m, uint32_t from)
{
    int found = -1;
    for (int i = 0; i < MAX_DOMAINS; i++)
        if (m->domains[i].domid >= from && exists(m, i) && (found < 0 || m->domains[i].domid < m->domains[found].domid))
            found = i;
    return found;
}

static void describe(const struct domain *d, struct xen_domctl_getdomaininfo *info)
{
    memset(info, 0, sizeof *info);
    info->domain = d->domid;
    info->flags = d->state == DOMAIN_ALIVE ? XEN_DOMINF_running : XEN_DOMINF_dying;
    info->max_vcpu_id = 0;
    info->nr_online_vcpus = 1;
    info->handle[15] = (uint8_t)d->domid;
}

static int domctl(struct machine *m, struct xen_domctl *op)
{
    if (op->cmd != XEN_DOMCTL_getdomaininfo) {
        errno = ENOSYS;
        return -1;
    }
    machine_lock(m);
    int slot = next_domain(m, op->domain);
    /* Up to Xen 4.17 the hypercall finds the next domain; later versions only find the exact one. */
    if (XEN_DOMCTL_INTERFACE_VERSION > 0x15 && slot >= 0 && m->domains[slot].domid != op->domain) slot = -1;
    if (slot >= 0) {
        describe(&m->domains[slot], &op->u.getdomaininfo);
        op->domain = m->domains[slot].domid;
    }
    machine_unlock(m);
    if (slot >= 0) return 0;
    errno = ESRCH;
    return -1;
}

static int sysctl(struct machine *m, struct xen_sysctl *op)
{
    if (op->cmd != XEN_SYSCTL_getdomaininfolist) {
        errno = ENOSYS;
        return -1;
    }
    struct xen_sysctl_getdomaininfolist *list = &op->u.getdomaininfolist;
    uint32_t from = list->first_domain, count = 0;
    machine_lock(m);
    for (int slot; count < list->max_domains; count++) {
        slot = next_domain(m, from);
        if (slot < 0) break;
        xen_domctl_getdomaininfo_t info;
        describe(&m->domains[slot], &info);
        memcpy(&list->buffer.p[count], &info, sizeof info);
        from = m->domains[slot].domid + 1;
    }
    machine_unlock(m);
    list->num_domains = count;
    return 0;
}

int xencall1(xencall_handle *xcall, unsigned int op, uint64_t arg1)
{
    if (op == __HYPERVISOR_domctl) return domctl(xcall->at.machine, (struct xen_domctl *)(uintptr_t)arg1);
    if (op == __HYPERVISOR_sysctl) return sysctl(xcall->at.machine, (struct xen_sysctl *)(uintptr_t)arg1);
    errno = ENOSYS;
    return -1;
}

static int unsupported(void)
{
    errno = ENOSYS;
    return -1;
}

int xencall0(xencall_handle *xcall, unsigned int op)
{
    (void)xcall, (void)op;
    return unsupported();
}

int xencall2(xencall_handle *xcall, unsigned int op, uint64_t arg1, uint64_t arg2)
{
    (void)xcall, (void)op, (void)arg1, (void)arg2;
    return unsupported();
}

int xencall3(xencall_handle *xcall, unsigned int op, uint64_t arg1, uint64_t arg2, uint64_t arg3)
{
    (void)xcall, (void)op, (void)arg1, (void)arg2, (void)arg3;
    return unsupported();
}

int xencall4(xencall_handle *xcall, unsigned int op, uint64_t arg1, uint64_t arg2, uint64_t arg3, uint64_t arg4)
{
    (void)xcall, (void)op, (void)arg1, (void)arg2, (void)arg3, (void)arg4;
    return unsupported();
}

int xencall5(xencall_handle *xcall, unsigned int op, uint64_t arg1, uint64_t arg2, uint64_t arg3, uint64_t arg4,
             uint64_t arg5)
{
    (void)xcall, (void)op, (void)arg1, (void)arg2, (void)arg3, (void)arg4, (void)arg5;
    return unsupported();
}

long xencall2L(xencall_handle *xcall, unsigned int op, uint64_t arg1, uint64_t arg2)
{
    return xencall2(xcall, op, arg1, arg2);
}

void *xencall_alloc_buffer_pages(xencall_handle *xcall, size_t nr_pages)
{
    (void)xcall;
    return aligned_alloc(PAGE_BYTES, nr_pages * PAGE_BYTES);
}

void xencall_free_buffer_pages(xencall_handle *xcall, void *p, size_t nr_pages)
{
    (void)xcall, (void)nr_pages;
    free(p);
}

void *xencall_alloc_buffer(xencall_handle *xcall, size_t size)
{
    return xencall_alloc_buffer_pages(xcall, (size + PAGE_BYTES - 1) / PAGE_BYTES);
}

void xencall_free_buffer(xencall_handle *xcall, void *p) { xencall_free_buffer_pages(xcall, p, 1); }

int xencall_buffers_never_fault(xencall_handle *xcall)
{
    (void)xcall;
    return 1;
}
