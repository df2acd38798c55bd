/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The interface between the parts of fakectl: fakectl.c works on the machine, fakectl_store.c and fakectl_copy.c on
 * xenstore. Functions return 0, or -1 after they have printed the reason.
 */
#ifndef FAKECTL_H
#define FAKECTL_H

#include <stdint.h>

/* Writes domain 0's own nodes, as xen-init-dom0 does. */
int store_init(void);
/* Introduces a domain to xenstored; `port` is its xenstore event channel. */
int store_introduce(uint32_t domid, uint32_t port);
/* Writes the nodes that xl writes for a new PV guest. */
int store_create(uint32_t domid, const char *name, const char *uuid, uint32_t port);
/* Releases the domain in xenstored and removes its nodes. The backend directories of its devices stay. */
int store_destroy(uint32_t domid);
/* Copies every node with its permissions to a file. */
int store_save(const char *file);
/* Writes the nodes of such a file into xenstore in one transaction. */
int store_load(const char *file);

#endif
