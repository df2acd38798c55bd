/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Page frames, grant entries and the records of mapped pages. All functions except grant_check() need the machine's
 * lock.
 */
#ifndef FAKE_GRANTS_H
#define FAKE_GRANTS_H

#include "machine.h"

/* Takes `count` consecutive free frames. Returns the first, or -1 if there are none. The caller clears them. */
int64_t frames_take(struct machine *m, uint32_t count);
/* Fills a free grant entry (`ref` 0: any), a user of the frame. Returns the reference, or 0 if the table is full. */
uint32_t grant_give(struct machine *m, uint32_t domain, uint32_t ref, uint32_t to, uint32_t frame, int readonly,
                    uint32_t owner);
/* Ends a grant: it cannot be mapped any more, and its entry is free once no mapping is left. */
void grant_end(struct machine *m, uint32_t domain, uint32_t ref);
/* Returns GNTST_okay and the frame if domain `to` may use the grant this way, else Xen's status. Needs no lock. */
int grant_check(struct machine *m, uint32_t granter, uint32_t ref, uint32_t to, int write, uint32_t *frame);
/* Records one mapping of a checked grant. Returns the record's index, or -1 if there is no room. */
int32_t map_record_take(struct machine *m, uint32_t process, uint32_t domain, uint32_t ref, uint32_t frame);
void map_record_drop(struct machine *m, uint32_t index);
/* Drops all mappings and grants of one process. */
void grants_release_process(struct machine *m, uint32_t process);
/* Recomputes the counters after a process died while it held the machine's lock. */
void grants_recount(struct machine *m);
/* True if pages of a domain are still mapped. Such a domain is a zombie once it is dead. */
int grants_in_use(struct machine *m, uint32_t domain);

#endif
