/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The simulated machine: one shared file in place of the hypervisor's memory. Each process acts as a domain, so that
 * processes can grant pages and send events to each other on a computer without Xen. This header has the file's layout
 * and its slow-path operations; event delivery is in events.h, grants are in grants.h. Each of the libraries (gnttab,
 * evtchn, ...) contains this code.
 */
#ifndef FAKE_MACHINE_H
#define FAKE_MACHINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MAX_DOMAINS = 256,
    MAX_PROCESSES = 512,
    MAX_HANDLES = 2048,
    MAX_PORTS = 4096,     /* of one domain, port 0 unused */
    MAX_GRANTS = 32768,   /* of one domain */
    MAX_FRAMES = 262144,  /* 1 GiB of page frames, sparse */
    MAX_MAPS = 262144,    /* mapped pages of all processes */
    FIRST_FREE_GRANT = 8, /* lower references are reserved by Xen */
    STORE_GRANT = 1,      /* GNTTAB_RESERVED_XENSTORE */
    PAGE_BYTES = 4096
};

#define MACHINE_MAGIC 0x584b4d33u

enum domain_state { DOMAIN_FREE, DOMAIN_ALIVE, DOMAIN_DEAD };
enum port_state { PORT_FREE, PORT_UNBOUND, PORT_INTERDOMAIN, PORT_VIRQ };
enum grant_state { GRANT_FREE, GRANT_ACTIVE, GRANT_ENDED /* ended while mapped: the last unmap frees it */ };

/* An event channel's end. `link` is one word, so that a sender reads it without a lock. */
struct port {
    _Atomic uint64_t link;    /* see port_link() */
    _Atomic uint32_t handle;  /* index + 1 of the open handle that listens; 0: none */
    uint8_t masked, pending;  /* under the handle's lock */
};

static inline uint64_t port_link(enum port_state state, uint32_t domain, uint32_t number)
{
    /* UNBOUND: the domain id that may bind. INTERDOMAIN: the peer's domain slot and port. VIRQ: number is the VIRQ. */
    return (uint64_t)state << 56 | (uint64_t)domain << 32 | number;
}
static inline enum port_state link_state(uint64_t link) { return link >> 56; }
static inline uint32_t link_domain(uint64_t link) { return link >> 32 & 0xffffff; }
static inline uint32_t link_number(uint64_t link) { return (uint32_t)link; }

/* A grant entry. `word` is read without a lock by grant copies. */
struct grant {
    _Atomic uint64_t word; /* see grant_word() */
    uint32_t maps;         /* mapped pages that use it, in all processes */
    uint32_t owner;        /* process slot + 1 of the granter; 0: the toolstack */
};

static inline uint64_t grant_word(enum grant_state state, int readonly, uint32_t to, uint32_t frame)
{
    return (uint64_t)state << 56 | (uint64_t)(readonly != 0) << 48 | (uint64_t)(to & 0xffff) << 32 | frame;
}
static inline enum grant_state grant_word_state(uint64_t word) { return word >> 56; }
static inline int grant_word_readonly(uint64_t word) { return word >> 48 & 1; }
static inline uint32_t grant_word_to(uint64_t word) { return word >> 32 & 0xffff; }
static inline uint32_t grant_word_frame(uint64_t word) { return (uint32_t)word; }

struct domain {
    uint32_t state, domid;
    uint32_t grant_hint, grant_top; /* no free entry below hint; no used entry from top on */
    uint32_t store_port; /* this domain's end of its xenstore event channel */
    struct port ports[MAX_PORTS];
    struct grant grants[MAX_GRANTS];
};

/* A process that has opened a library. The counters only grow; tests read them. */
struct process {
    int32_t pid; /* 0: the slot is free */
    uint32_t opens;
    uint64_t start_time; /* detects a reused pid */
    uint32_t domid;
    _Atomic uint64_t notifies, map_calls, unmap_calls, copy_calls, copy_segments;
};

/* An open event-channel handle. */
struct handle {
    uint32_t used, process, domain; /* process slot, domain slot */
    uint32_t generation;            /* grows when the slot is freed */
    int32_t socket;                 /* in its process: the end that senders write to */
    uint32_t restricted;            /* domid + 1, or 0 */
    _Atomic uint32_t owed;          /* masked ports with a pending event; a futex: the handle's thread sleeps while 0 */
    uint32_t undrained;             /* events delivered since the unmask writes were last read */
    pthread_mutex_t lock;           /* robust */
};

/* One mapped page. */
struct map_record {
    uint32_t process; /* slot + 1; 0: free */
    uint32_t domain;  /* the granter's slot */
    uint32_t ref, frame;
};

struct machine {
    uint32_t magic;
    uint32_t frame_hint;          /* no free frame below */
    uint32_t map_hint, map_top;   /* no free record below hint; no used record from top on */
    pthread_mutex_t lock; /* robust; taken before any handle's lock */
    struct process processes[MAX_PROCESSES];
    struct handle handles[MAX_HANDLES];
    uint16_t frame_users[MAX_FRAMES]; /* one for a grant, and one for each mapping of it */
    struct map_record maps[MAX_MAPS];
    struct domain domains[MAX_DOMAINS];
};

#define FRAMES_OFFSET ((sizeof(struct machine) + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES)
#define MACHINE_BYTES (FRAMES_OFFSET + (size_t)MAX_FRAMES * PAGE_BYTES)

/* This process's view of one machine, one per open library handle. */
struct attachment {
    struct machine *machine;
    unsigned char *frames; /* all page frames, writable */
    int fd;
    uint32_t process; /* slot */
    uint32_t domain;  /* slot of the domain that this handle acts as */
};

/* Creates the machine's file in `directory`, with domain 0. Returns 0, or -1 with errno. */
int machine_create(const char *directory);
/* Opens the machine in XENBLK_FAKE_DIR as domain XENBLK_FAKE_DOMID (default 0). Returns 0, or -1 with errno. */
int machine_attach(struct attachment *at);
/* Opens a machine by its directory for a tool, which is not one of its processes. */
int machine_open(struct attachment *at, const char *directory);
void machine_detach(struct attachment *at);

void machine_lock(struct machine *m);
void machine_unlock(struct machine *m);
/* Releases the resources of dead processes. The machine's lock is held. */
void machine_reap(struct machine *m);
/* The slot of a domain, or -1 with errno ESRCH. Finds dead domains only with `dead`. */
int machine_find_domain(struct machine *m, uint32_t domid, int dead);
/* Adds a domain with its xenstore page and port. The lock is held. Returns the slot, or -1 with errno. */
int machine_add_domain(struct machine *m, uint32_t domid);
/* Ends a domain: closes its ports and ends its grants. The lock is held. */
void machine_end_domain(struct machine *m, uint32_t slot);

/* A process-shared mutex that survives the death of its owner. */
void robust_init(pthread_mutex_t *lock);
/* Locks the mutex. Returns 1 if its last owner died while it held it. */
int robust_lock(pthread_mutex_t *lock);
/* The start time of a living process in clock ticks since boot; 0 if it is gone or a zombie. */
uint64_t process_start_time(int pid);

#endif
