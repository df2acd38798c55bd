/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * fakectl acts as hypervisor and toolstack of the simulated machine. It creates the machine, creates and ends domains,
 * and prints the resources of every process as JSON.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xen/xen.h>

#include "events.h"
#include "fakectl.h"
#include "grants.h"
#include "machine.h"

static int complain(const char *what, const char *thing)
{
    fprintf(stderr, "Cannot %s %s: %s\n", what, thing, strerror(errno));
    return -1;
}

static int write_file(const char *directory, const char *name, const void *content, size_t length)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "we");
    if (file == NULL) return complain("create", path);
    size_t written = fwrite(content, 1, length, file);
    return fclose(file) == 0 && written == length ? 0 : complain("write", path);
}

/* Creates the machine, and the two files that xsd_shim.c gives to xenstored. */
static int command_init(const char *directory)
{
    struct attachment at;
    static const char page[PAGE_BYTES];
    char port[16];
    if (machine_create(directory) < 0 || machine_open(&at, directory) < 0) return complain("make a machine in", directory);
    int length = snprintf(port, sizeof port, "%u", at.machine->domains[0].store_port);
    machine_detach(&at);
    if (write_file(directory, "xsd_port", port, length) < 0) return -1;
    return write_file(directory, "xsd_kva", page, sizeof page);
}

/* Adds a domain if it does not exist. Returns its xenstore port, or 0. */
static uint32_t ensure_domain(struct machine *m, uint32_t domid)
{
    machine_lock(m);
    int slot = machine_find_domain(m, domid, 0);
    if (slot < 0) slot = machine_add_domain(m, domid);
    machine_unlock(m);
    return slot < 0 ? 0 : m->domains[slot].store_port;
}

/* Ends a domain and raises VIRQ_DOM_EXC, as Xen does. xenstored then fires @releaseDomain. */
static int command_kill(struct machine *m, uint32_t domid)
{
    struct sender sender = { .fd = -1 };
    uint32_t exception = 0;
    machine_lock(m);
    machine_reap(m);
    int slot = machine_find_domain(m, domid, 0);
    if (slot >= 0) machine_end_domain(m, slot);
    for (uint32_t i = 1; i < MAX_PORTS; i++)
        if (m->domains[0].ports[i].link == port_link(PORT_VIRQ, 0, VIRQ_DOM_EXC)) exception = i;
    machine_unlock(m);
    if (exception != 0) events_raise(m, MAX_PROCESSES, 0, exception, &sender);
    sender_close(&sender);
    return slot < 0 ? complain("end", "the domain") : 0;
}

static void print_processes(struct machine *m)
{
    const char *separator = "";
    for (uint32_t i = 0; i < MAX_PROCESSES; i++) {
        struct process *p = &m->processes[i];
        uint32_t mapped = 0, granted = 0, handles = 0, ports = 0;
        if (p->pid == 0) continue;
        for (uint32_t map = 0; map < m->map_top; map++) mapped += m->maps[map].process == i + 1;
        for (uint32_t d = 0; d < MAX_DOMAINS; d++)
            for (uint32_t ref = 0; ref < m->domains[d].grant_top; ref++)
                granted += m->domains[d].grants[ref].owner == i + 1;
        for (uint32_t h = 0; h < MAX_HANDLES; h++) {
            if (!m->handles[h].used || m->handles[h].process != i) continue;
            handles++;
            for (uint32_t n = 1; n < MAX_PORTS; n++) ports += m->domains[m->handles[h].domain].ports[n].handle == h + 1;
        }
        printf("%s{\"pid\":%d,\"domid\":%u,\"opens\":%u,\"mappedPages\":%u,\"grants\":%u,\"eventHandles\":%u,\"ports\":%u,",
               separator, p->pid, p->domid, p->opens, mapped, granted, handles, ports);
        printf("\"notifies\":%lu,\"mapCalls\":%lu,\"unmapCalls\":%lu,\"copyCalls\":%lu,\"copySegments\":%lu}", p->notifies,
               p->map_calls, p->unmap_calls, p->copy_calls, p->copy_segments);
        separator = ",";
    }
}

static void print_domains(struct machine *m)
{
    const char *separator = "";
    for (uint32_t i = 0; i < MAX_DOMAINS; i++) {
        struct domain *d = &m->domains[i];
        uint32_t grants = 0, mapped = 0, ports = 0;
        if (d->state == DOMAIN_FREE) continue;
        for (uint32_t ref = FIRST_FREE_GRANT; ref < d->grant_top; ref++) {
            grants += grant_word_state(d->grants[ref].word) != GRANT_FREE;
            mapped += d->grants[ref].maps;
        }
        for (uint32_t n = 1; n < MAX_PORTS; n++) ports += link_state(d->ports[n].link) != PORT_FREE;
        printf("%s{\"domid\":%u,\"alive\":%s,\"grants\":%u,\"mappedPages\":%u,\"ports\":%u}", separator, d->domid,
               d->state == DOMAIN_ALIVE ? "true" : "false", grants, mapped, ports);
        separator = ",";
    }
}

static int command_stats(struct machine *m)
{
    uint32_t frames = 0;
    machine_lock(m);
    machine_reap(m);
    for (uint32_t i = 0; i < MAX_FRAMES; i++) frames += m->frame_users[i] != 0;
    printf("{\"framesUsed\":%u,\"processes\":[", frames);
    print_processes(m);
    printf("],\"domains\":[");
    print_domains(m);
    printf("]}\n");
    machine_unlock(m);
    return 0;
}

static int run(struct attachment *at, const char *command, int count, char **arguments)
{
    uint32_t domid = count > 0 ? (uint32_t)strtoul(arguments[0], NULL, 10) : 0;
    if (strcmp(command, "stats") == 0) return command_stats(at->machine);
    if (strcmp(command, "setup") == 0) return store_init();
    if (strcmp(command, "save") == 0 && count == 1) return store_save(arguments[0]);
    if (strcmp(command, "load") == 0 && count == 1) return store_load(arguments[0]);
    if (strcmp(command, "kill") == 0 && count == 1) return command_kill(at->machine, domid);
    if (strcmp(command, "destroy") == 0 && count == 1) {
        int rc = command_kill(at->machine, domid);
        return store_destroy(domid) < 0 ? -1 : rc;
    }
    int create = strcmp(command, "create") == 0 && count == 3, introduce = strcmp(command, "introduce") == 0 && count == 1;
    if (!create && !introduce) {
        fprintf(stderr, "Cannot run %s: unknown command or wrong number of arguments\n", command);
        return -1;
    }
    uint32_t port = ensure_domain(at->machine, domid);
    if (port == 0) return complain("create", "the domain");
    return create ? store_create(domid, arguments[1], arguments[2], port) : store_introduce(domid, port);
}

int main(int argc, char **argv)
{
    struct attachment at;
    if (argc < 3) {
        fprintf(stderr, "usage: fakectl DIRECTORY init | setup | stats | create DOMID NAME UUID | introduce DOMID |"
                        " kill DOMID | destroy DOMID | save FILE | load FILE\n");
        return 2;
    }
    if (strcmp(argv[2], "init") == 0) return command_init(argv[1]) < 0;
    if (machine_open(&at, argv[1]) < 0) {
        complain("open the machine in", argv[1]);
        return 1;
    }
    int rc = run(&at, argv[2], argc - 3, argv + 3);
    machine_detach(&at);
    return rc < 0;
}
