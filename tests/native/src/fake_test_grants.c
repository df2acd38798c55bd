/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The contract of the grant table: domain 1 shares pages, domain 0 (this process) maps and copies them.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xengnttab.h>

#include "fake_test.h"

#define PAGE 4096
#define READ_WRITE (PROT_READ | PROT_WRITE)

/* Domain 1: shares 3 writable pages and 1 read-only page with domain 0, each filled with its number, until an order. */
static void sharer(int channel)
{
    uint32_t refs[4];
    xengntshr_handle *xgs = xengntshr_open(NULL, 0);
    CHECK(xgs != NULL);
    unsigned char *pages = xengntshr_share_pages(xgs, 0, 3, refs, 1);
    unsigned char *fixed = xengntshr_share_pages(xgs, 0, 1, refs + 3, 0);
    CHECK(pages != NULL && fixed != NULL);
    for (int i = 0; i < PAGE; i++) CHECK(pages[i] == 0 && fixed[i] == 0);
    for (int i = 0; i < 3; i++) memset(pages + i * PAGE, i + 1, PAGE);
    memset(fixed, 4, PAGE);
    for (int i = 0; i < 4; i++) tell(channel, refs[i]);
    while (hear(channel) != 0) tell(channel, pages[PAGE + 5]);
    CHECK_ERRNO(xengntshr_unshare(xgs, pages, 2) == -1, EINVAL);
    CHECK(xengntshr_unshare(xgs, pages, 3) == 0);
    tell(channel, 0);
    hear(channel);
    CHECK(xengntshr_close(xgs) == 0);
}

static struct peer start_sharer(uint32_t refs[4])
{
    struct peer peer = peer_start(1, sharer);
    for (int i = 0; i < 4; i++) refs[i] = hear(peer.channel);
    return peer;
}

static void stop_sharer(struct peer *peer)
{
    tell(peer->channel, 0);
    hear(peer->channel);
    tell(peer->channel, 0);
    peer_join(peer);
}

/* Lines of this process's memory map that show the machine, which are the library's mappings. */
static int mapped_ranges(void)
{
    char line[512];
    int count = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) count += strstr(line, "/machine") != NULL;
    fclose(file);
    return count;
}

static void mapped_stores_are_shared(void)
{
    uint32_t refs[4];
    struct peer peer = start_sharer(refs);
    xengnttab_handle *xgt = xengnttab_open(NULL, 0);
    CHECK(xgt != NULL && xengnttab_set_max_grants(xgt, 64) == 0);
    uint32_t swapped[3] = { refs[2], refs[0], refs[1] }, domids[3] = { 1, 1, 1 };
    unsigned char *one = xengnttab_map_grant_ref(xgt, 1, refs[1], READ_WRITE);
    unsigned char *several = xengnttab_map_domain_grant_refs(xgt, 3, 1, refs, READ_WRITE);
    unsigned char *mixed = xengnttab_map_grant_refs(xgt, 3, domids, swapped, READ_WRITE);
    CHECK(one != NULL && several != NULL && mixed != NULL);
    for (int i = 0; i < 3; i++) CHECK(several[i * PAGE] == i + 1);
    CHECK(mixed[0] == 3 && mixed[PAGE] == 1 && mixed[2 * PAGE] == 2);
    one[5] = 77;
    CHECK(several[PAGE + 5] == 77 && mixed[2 * PAGE + 5] == 77);
    tell(peer.channel, 1);
    CHECK(hear(peer.channel) == 77);
    CHECK(xengnttab_unmap(xgt, one, 1) == 0 && xengnttab_unmap(xgt, several, 3) == 0);
    CHECK(xengnttab_close(xgt) == 0); /* also unmaps `mixed` */
    CHECK(mapped_ranges() == 0);
    stop_sharer(&peer);
}

static void a_bad_reference_maps_nothing(void)
{
    uint32_t refs[4];
    struct peer peer = start_sharer(refs);
    xengnttab_handle *xgt = xengnttab_open(NULL, 0);
    int before = mapped_ranges();
    uint32_t with_bad[3] = { refs[0], refs[1], 30000 }, huge[1] = { UINT32_MAX };
    CHECK_ERRNO(xengnttab_map_domain_grant_refs(xgt, 3, 1, with_bad, READ_WRITE) == NULL, EINVAL);
    CHECK_ERRNO(xengnttab_map_domain_grant_refs(xgt, 1, 1, huge, READ_WRITE) == NULL, EINVAL);
    CHECK_ERRNO(xengnttab_map_domain_grant_refs(xgt, 0, 1, refs, READ_WRITE) == NULL, EINVAL);
    CHECK_ERRNO(xengnttab_map_grant_ref(xgt, 2, refs[0], READ_WRITE) == NULL, EINVAL);    /* not the granter */
    CHECK_ERRNO(xengnttab_map_grant_ref(xgt, 4000, refs[0], READ_WRITE) == NULL, EINVAL); /* no such domain */
    CHECK(mapped_ranges() == before);
    /* Domain 2 has no right to a page granted to domain 0. */
    setenv("XENBLK_FAKE_DOMID", "2", 1);
    xengnttab_handle *other = xengnttab_open(NULL, 0);
    CHECK_ERRNO(xengnttab_map_grant_ref(other, 1, refs[0], READ_WRITE) == NULL, EINVAL);
    xengnttab_close(other);
    xengnttab_close(xgt);
    stop_sharer(&peer);
}

static void unmap_wants_the_exact_start_and_count(void)
{
    uint32_t refs[4];
    struct peer peer = start_sharer(refs);
    xengnttab_handle *xgt = xengnttab_open(NULL, 0);
    unsigned char *pages = xengnttab_map_domain_grant_refs(xgt, 3, 1, refs, READ_WRITE);
    CHECK_ERRNO(xengnttab_unmap(xgt, pages, 2) == -1, EINVAL);
    CHECK_ERRNO(xengnttab_unmap(xgt, pages + PAGE, 2) == -1, EINVAL);
    CHECK_ERRNO(xengnttab_unmap(xgt, pages, 0) == -1, EINVAL);
    CHECK(pages[2 * PAGE] == 3);
    CHECK(xengnttab_unmap(xgt, pages, 3) == 0);
    CHECK_ERRNO(xengnttab_unmap(xgt, pages, 3) == -1, EINVAL);
    xengnttab_close(xgt);
    stop_sharer(&peer);
}

static void a_read_only_grant_refuses_writers(void)
{
    uint32_t refs[4];
    struct peer peer = start_sharer(refs);
    xengnttab_handle *xgt = xengnttab_open(NULL, 0);
    CHECK_ERRNO(xengnttab_map_grant_ref(xgt, 1, refs[3], READ_WRITE) == NULL, EINVAL);
    unsigned char *page = xengnttab_map_grant_ref(xgt, 1, refs[3], PROT_READ);
    CHECK(page != NULL && page[0] == 4);
    pid_t pid = fork();
    if (pid == 0) {
        page[0] = 1;
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    xengnttab_close(xgt);
    stop_sharer(&peer);
}

static xengnttab_grant_copy_segment_t from_guest(uint32_t ref, uint16_t offset, void *to, uint16_t length)
{
    xengnttab_grant_copy_segment_t s = { .len = length, .flags = GNTCOPY_source_gref, .status = 99 };
    s.source.foreign.ref = ref;
    s.source.foreign.offset = offset;
    s.source.foreign.domid = 1;
    s.dest.virt = to;
    return s;
}

static xengnttab_grant_copy_segment_t to_guest(uint32_t ref, uint16_t offset, void *from, uint16_t length)
{
    xengnttab_grant_copy_segment_t s = { .len = length, .flags = GNTCOPY_dest_gref, .status = 99 };
    s.dest.foreign.ref = ref;
    s.dest.foreign.offset = offset;
    s.dest.foreign.domid = 1;
    s.source.virt = from;
    return s;
}

static void copies_report_a_status_each(void)
{
    uint32_t refs[4];
    unsigned char buffer[PAGE] = { 0 }, filler[16];
    struct peer peer = start_sharer(refs);
    xengnttab_handle *xgt = xengnttab_open(NULL, 0);
    memset(filler, 55, sizeof filler);
    xengnttab_grant_copy_segment_t s[] = {
        from_guest(refs[0], 0, buffer, 4),
        from_guest(30000, 0, buffer + 4, 4),      /* not granted */
        from_guest(1u << 20, 0, buffer + 8, 4),   /* beyond the table */
        from_guest(refs[3], PAGE - 4, buffer + 12, 4),
        to_guest(refs[3], 0, filler, 4),          /* read-only */
        to_guest(refs[1], 4, filler, 16),
        to_guest(refs[1], 0, filler, 1),          /* no such domain, see below */
    };
    s[6].dest.foreign.domid = 4000;
    CHECK(xengnttab_grant_copy(xgt, 7, s) == 0);
    CHECK(s[0].status == GNTST_okay && buffer[0] == 1 && buffer[3] == 1);
    CHECK(s[1].status == GNTST_general_error && buffer[4] == 0);
    CHECK(s[2].status == GNTST_bad_gntref);
    CHECK(s[3].status == GNTST_okay && buffer[15] == 4);
    CHECK(s[4].status == GNTST_general_error);
    CHECK(s[5].status == GNTST_okay);
    CHECK(s[6].status == GNTST_bad_domain);
    tell(peer.channel, 1);
    CHECK(hear(peer.channel) == 55);
    xengnttab_grant_copy_segment_t over[] = { from_guest(refs[0], 0, buffer, 4), from_guest(refs[1], 4000, buffer, 97) };
    CHECK_ERRNO(xengnttab_grant_copy(xgt, 2, over) == -1, EINVAL);
    CHECK(over[0].status == 99 && over[1].status == 99); /* gntdev refuses the whole call */
    xengnttab_close(xgt);
    stop_sharer(&peer);
}

static void an_ended_grant_stays_mapped_where_it_is(void)
{
    uint32_t refs[4];
    struct peer peer = start_sharer(refs);
    xengnttab_handle *xgt = xengnttab_open(NULL, 0);
    unsigned char *page = xengnttab_map_grant_ref(xgt, 1, refs[1], READ_WRITE), buffer[1];
    tell(peer.channel, 0); /* ends the grants */
    hear(peer.channel);
    CHECK(page[0] == 2);
    page[0] = 9;
    CHECK_ERRNO(xengnttab_map_grant_ref(xgt, 1, refs[1], READ_WRITE) == NULL, EINVAL);
    xengnttab_grant_copy_segment_t s = from_guest(refs[1], 0, buffer, 1);
    CHECK(xengnttab_grant_copy(xgt, 1, &s) == 0 && s.status == GNTST_general_error);
    CHECK(xengnttab_unmap(xgt, page, 1) == 0);
    xengnttab_close(xgt);
    tell(peer.channel, 0);
    peer_join(&peer);
}

static void unmapping_clears_the_notify_byte(void)
{
    uint32_t refs[4];
    struct peer peer = start_sharer(refs);
    xengnttab_handle *xgt = xengnttab_open(NULL, 0);
    unsigned char *page = xengnttab_map_grant_ref_notify(xgt, 1, refs[1], READ_WRITE, 5, -1);
    CHECK(page != NULL && page[5] == 2);
    CHECK(xengnttab_unmap(xgt, page, 1) == 0);
    tell(peer.channel, 1);
    CHECK(hear(peer.channel) == 0);
    xengnttab_close(xgt);
    stop_sharer(&peer);
}

/* Not a check by itself: holds two mapped pages until it is killed, for a test that counts leaks. */
static void hold(void)
{
    uint32_t refs[4];
    start_sharer(refs);
    xengnttab_handle *xgt = xengnttab_open(NULL, 0);
    CHECK(xengnttab_map_domain_grant_refs(xgt, 2, 1, refs, READ_WRITE) != NULL);
    puts("holding");
    fflush(stdout);
    pause();
}

const struct test_case grant_cases[] = {
    { "both sides see each other's stores, pages in the order of the references", mapped_stores_are_shared },
    { "a bad reference makes the whole map fail and leaves nothing mapped", a_bad_reference_maps_nothing },
    { "unmap needs the exact start and count", unmap_wants_the_exact_start_and_count },
    { "a read-only grant refuses writers", a_read_only_grant_refuses_writers },
    { "each grant copy reports its status", copies_report_a_status_each },
    { "an ended grant stays mapped, and cannot be mapped again", an_ended_grant_stays_mapped_where_it_is },
    { "unmapping clears the notify byte", unmapping_clears_the_notify_byte },
    { "--hold", hold },
    { NULL, NULL },
};
