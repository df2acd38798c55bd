/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Page frames, grant entries and the records of what is mapped. All but grant_check() want the machine's lock.
 */
#ifndef FAKE_GRANTS_H
#define FAKE_GRANTS_H

#include "machine.h"

/* Takes `count` consecutive free frames; the first, or -1 when there are none. Their content is the caller's to clear. */
int64_t frames_take(struct machine *m, uint32_t count);
/* Fills a free grant entry (`ref` 0: any) and counts as a user of the frame. The reference, or 0 when the table is full. */
uint32_t grant_give(struct machine *m, uint32_t domain, uint32_t ref, uint32_t to, uint32_t frame, int readonly,
                    uint32_t owner);
/* Ends a grant: it can't be mapped any more, and is free once nobody maps it. */
void grant_end(struct machine *m, uint32_t domain, uint32_t ref);
/* GNTST_okay and the frame if domain `to` may use the grant so, else the status that Xen gives. Needs no lock. */
int grant_check(struct machine *m, uint32_t granter, uint32_t ref, uint32_t to, int write, uint32_t *frame);
/* Counts one mapping of a grant that was checked; the record's index, or -1 when there is no room. */
int32_t map_record_take(struct machine *m, uint32_t process, uint32_t domain, uint32_t ref, uint32_t frame);
void map_record_drop(struct machine *m, uint32_t index);
/* Drops what one process mapped and granted. */
void grants_release_process(struct machine *m, uint32_t process);
/* Counts anew, after a process died while it held the machine's lock. */
void grants_recount(struct machine *m);
/* Whether pages of a domain are still mapped (such a domain, when dead, lingers as a zombie). */
int grants_in_use(struct machine *m, uint32_t domain);

#endif
