/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Preloaded into xenstored (LD_PRELOAD): /proc/xen/xsd_port and /proc/xen/xsd_kva become the files of those names in
 * XENBLK_FAKE_DIR, which hold domain 0's event-channel port and its ring page. All else opens as asked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>

/* A test that is killed takes its xenstored along. */
__attribute__((constructor)) static void die_with_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }

static const char *redirect(const char *path, char *buffer, size_t size)
{
    const char *directory = getenv("XENBLK_FAKE_DIR");
    if (directory == NULL || strncmp(path, "/proc/xen/xsd_", 14) != 0) return path;
    snprintf(buffer, size, "%s/%s", directory, path + strlen("/proc/xen/"));
    return buffer;
}

/* The next definition of a function, as a function of the same type. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static mode_t mode_argument(int flags, va_list arguments)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(name)                                                                     \
    int name(const char *path, int flags, ...)                                         \
    {                                                                                  \
        char buffer[4096];                                                             \
        va_list arguments;                                                             \
        va_start(arguments, flags);                                                    \
        mode_t mode = mode_argument(flags, arguments);                                 \
        va_end(arguments);                                                             \
        return REAL(name)(redirect(path, buffer, sizeof buffer), flags, mode);         \
    }

#define OPENAT(name)                                                                   \
    int name(int directory, const char *path, int flags, ...)                          \
    {                                                                                  \
        char buffer[4096];                                                             \
        va_list arguments;                                                             \
        va_start(arguments, flags);                                                    \
        mode_t mode = mode_argument(flags, arguments);                                 \
        va_end(arguments);                                                             \
        return REAL(name)(directory, redirect(path, buffer, sizeof buffer), flags, mode); \
    }

#define FOPEN(name)                                                                    \
    FILE *name(const char *path, const char *mode)                                     \
    {                                                                                  \
        char buffer[4096];                                                             \
        return REAL(name)(redirect(path, buffer, sizeof buffer), mode);                \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)
