/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Page frames, grant entries and map records of the simulated machine. The counters (users of a frame, mappings of a
 * grant) follow from the grant entries and map records, so that they can be recomputed after a crash during a change.
 */
#include "grants.h"

#include <stdint.h>
#include <string.h>
#include <xen/xen.h>
#include <xen/grant_table.h>

int64_t frames_take(struct machine *m, uint32_t count)
{
    uint32_t run = 0, frame = m->frame_hint;
    while (frame < MAX_FRAMES && m->frame_users[frame] != 0) frame++;
    m->frame_hint = frame;
    for (; frame < MAX_FRAMES; frame++) {
        run = m->frame_users[frame] == 0 ? run + 1 : 0;
        if (run == count) return (int64_t)frame + 1 - count;
    }
    return -1;
}

static void frame_drop(struct machine *m, uint32_t frame)
{
    if (--m->frame_users[frame] == 0 && frame < m->frame_hint) m->frame_hint = frame;
}

static uint32_t grant_find_free(struct domain *d)
{
    for (uint32_t ref = d->grant_hint; ref < MAX_GRANTS; ref++) {
        if (grant_word_state(d->grants[ref].word) != GRANT_FREE) continue;
        d->grant_hint = ref + 1;
        if (ref >= d->grant_top) d->grant_top = ref + 1;
        return ref;
    }
    return 0;
}

uint32_t grant_give(struct machine *m, uint32_t domain, uint32_t ref, uint32_t to, uint32_t frame, int readonly,
                    uint32_t owner)
{
    struct domain *d = &m->domains[domain];
    if (ref == 0) ref = grant_find_free(d);
    if (ref == 0) return 0;
    m->frame_users[frame]++;
    d->grants[ref].maps = 0;
    d->grants[ref].owner = owner;
    d->grants[ref].word = grant_word(GRANT_ACTIVE, readonly, to, frame);
    return ref;
}

static void grant_free(struct machine *m, uint32_t domain, uint32_t ref)
{
    struct domain *d = &m->domains[domain];
    frame_drop(m, grant_word_frame(d->grants[ref].word));
    d->grants[ref].word = 0;
    d->grants[ref].owner = 0;
    if (ref >= FIRST_FREE_GRANT && ref < d->grant_hint) d->grant_hint = ref;
}

void grant_end(struct machine *m, uint32_t domain, uint32_t ref)
{
    struct grant *g = &m->domains[domain].grants[ref];
    uint64_t word = g->word;
    if (grant_word_state(word) != GRANT_ACTIVE) return;
    if (g->maps == 0)
        grant_free(m, domain, ref);
    else
        g->word = grant_word(GRANT_ENDED, grant_word_readonly(word), grant_word_to(word), grant_word_frame(word));
}

int grant_check(struct machine *m, uint32_t granter, uint32_t ref, uint32_t to, int write, uint32_t *frame)
{
    if (ref >= MAX_GRANTS) return GNTST_bad_gntref;
    uint64_t word = m->domains[granter].grants[ref].word;
    if (grant_word_state(word) != GRANT_ACTIVE || grant_word_to(word) != to) return GNTST_general_error;
    if (write && grant_word_readonly(word)) return GNTST_general_error;
    *frame = grant_word_frame(word);
    return GNTST_okay;
}

int32_t map_record_take(struct machine *m, uint32_t process, uint32_t domain, uint32_t ref, uint32_t frame)
{
    uint32_t index = m->map_hint;
    while (index < MAX_MAPS && m->maps[index].process != 0) index++;
    m->map_hint = index;
    if (index == MAX_MAPS) return -1;
    if (index >= m->map_top) m->map_top = index + 1;
    m->maps[index] = (struct map_record){ .process = process + 1, .domain = domain, .ref = ref, .frame = frame };
    m->frame_users[frame]++;
    m->domains[domain].grants[ref].maps++;
    return (int32_t)index;
}

void map_record_drop(struct machine *m, uint32_t index)
{
    struct map_record *r = &m->maps[index];
    struct grant *g = &m->domains[r->domain].grants[r->ref];
    r->process = 0;
    if (index < m->map_hint) m->map_hint = index;
    frame_drop(m, r->frame);
    if (--g->maps == 0 && grant_word_state(g->word) == GRANT_ENDED) grant_free(m, r->domain, r->ref);
}

void grants_release_process(struct machine *m, uint32_t process)
{
    for (uint32_t i = 0; i < m->map_top; i++)
        if (m->maps[i].process == process + 1) map_record_drop(m, i);
    for (uint32_t domain = 0; domain < MAX_DOMAINS; domain++) {
        if (m->domains[domain].state == DOMAIN_FREE) continue;
        for (uint32_t ref = 0; ref < m->domains[domain].grant_top; ref++) {
            struct grant *g = &m->domains[domain].grants[ref];
            if (g->owner != process + 1) continue;
            g->owner = 0;
            grant_end(m, domain, ref);
        }
    }
}

void grants_recount(struct machine *m)
{
    memset(m->frame_users, 0, sizeof m->frame_users);
    m->frame_hint = m->map_hint = 0;
    m->map_top = MAX_MAPS;
    for (uint32_t domain = 0; domain < MAX_DOMAINS; domain++) {
        if (m->domains[domain].state == DOMAIN_FREE) continue;
        m->domains[domain].grant_hint = FIRST_FREE_GRANT;
        m->domains[domain].grant_top = MAX_GRANTS;
        for (uint32_t ref = 0; ref < MAX_GRANTS; ref++) {
            struct grant *g = &m->domains[domain].grants[ref];
            g->maps = 0;
            if (grant_word_state(g->word) != GRANT_FREE) m->frame_users[grant_word_frame(g->word)]++;
        }
    }
    for (uint32_t i = 0; i < m->map_top; i++) {
        struct map_record *r = &m->maps[i];
        if (r->process == 0) continue;
        m->domains[r->domain].grants[r->ref].maps++;
        m->frame_users[r->frame]++;
    }
}

int grants_in_use(struct machine *m, uint32_t domain)
{
    for (uint32_t ref = 0; ref < m->domains[domain].grant_top; ref++)
        if (m->domains[domain].grants[ref].maps != 0) return 1;
    return 0;
}
