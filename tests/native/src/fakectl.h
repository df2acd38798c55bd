/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the two halves of fakectl tell each other: fakectl.c knows the machine, fakectl_store.c the xenstore.
 * Functions return 0, or -1 after they printed why.
 */
#ifndef FAKECTL_H
#define FAKECTL_H

#include <stdint.h>

/* Writes domain 0's own nodes, as xen-init-dom0 does. */
int store_init(void);
/* Tells xenstored of a domain, whose xenstore event channel is `port`. */
int store_introduce(uint32_t domid, uint32_t port);
/* Writes the nodes that xl writes for a new PV guest. */
int store_create(uint32_t domid, const char *name, const char *uuid, uint32_t port);
/* Tells xenstored that the domain is gone, and removes its nodes; backend directories of its devices stay. */
int store_destroy(uint32_t domid);
/* Copies every node with its permissions to a file. */
int store_save(const char *file);
/* Writes the nodes of such a file back in one transaction. */
int store_load(const char *file);

#endif
