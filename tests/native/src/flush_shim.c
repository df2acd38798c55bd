/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Preloaded into a backend (LD_PRELOAD). Each time a test puts the file fail-flush into XENBLK_FAKE_DIR, one fdatasync
 * fails: the kernel, too, reports a failed write-back only once.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int fd)
{
    static int (*real)(int);
    char path[4096];
    const char *directory = getenv("XENBLK_FAKE_DIR");
    if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    snprintf(path, sizeof path, "%s/fail-flush", directory == NULL ? "" : directory);
    if (unlink(path) != 0) return real(fd);
    errno = EIO;
    return -1;
}
