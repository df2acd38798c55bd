/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Preloaded into xenstored (LD_PRELOAD). /proc/xen/xsd_port and /proc/xen/xsd_kva become the files of those names in
 * XENBLK_FAKE_DIR; they hold domain 0's event-channel port and its ring page. xenstored's directory under /var/lib/xen,
 * which is fixed from Xen 4.20 on, is moved into XENBLK_FAKE_DIR. All other files open as usual.
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
#include <sys/stat.h>
#include <sys/types.h>

/* If the test is killed, its xenstored is killed too. */
__attribute__((constructor)) static void die_with_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }

static const char *redirect(const char *path, char *buffer, size_t size)
{
    static const char *const prefixes[] = { "/proc/xen/xsd_", "/var/lib/xen/xenstore" };
    const char *directory = getenv("XENBLK_FAKE_DIR");
    for (size_t i = 0; directory != NULL && i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (strncmp(path, prefixes[i], strlen(prefixes[i])) != 0) continue;
        snprintf(buffer, size, "%s/%s", directory, path + (strrchr(prefixes[i], '/') + 1 - prefixes[i]));
        return buffer;
    }
    return path;
}

/* The next definition of a function, with the same type. */
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

int mkdir(const char *path, mode_t mode)
{
    char buffer[4096];
    return REAL(mkdir)(redirect(path, buffer, sizeof buffer), mode);
}
