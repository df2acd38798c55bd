/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * fake_test NAME runs one check of the stand-ins' contract. It uses the real headers and sonames, so it would run with
 * Xen's libraries too. `fake_test --list` prints the names. Domains 0, 1 and 2 must exist.
 */
#include "fake_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <errno.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

void check(int condition, const char *text, const char *file, int line)
{
    if (condition) return;
    fprintf(stderr, "%s:%d: failed: %s (errno: %s)\n", file, line, text, strerror(errno));
    exit(1);
}

struct peer peer_start(uint32_t domid, void (*body)(int channel))
{
    int pair[2];
    char text[16];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        snprintf(text, sizeof text, "%u", domid);
        setenv("XENBLK_FAKE_DOMID", text, 1);
        body(pair[1]);
        exit(0);
    }
    close(pair[1]);
    return (struct peer){ .pid = pid, .channel = pair[0] };
}

void peer_join(struct peer *peer)
{
    int status;
    CHECK(waitpid(peer->pid, &status, 0) == peer->pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(peer->channel);
}

void peer_kill(struct peer *peer)
{
    kill(peer->pid, SIGKILL);
    waitpid(peer->pid, NULL, 0);
    close(peer->channel);
}

void tell(int channel, uint32_t value) { CHECK(write(channel, &value, sizeof value) == sizeof value); }

uint32_t hear(int channel)
{
    uint32_t value = 0;
    CHECK(read(channel, &value, sizeof value) == sizeof value);
    return value;
}

static const struct test_case *const tables[] = { grant_cases, event_cases, churn_cases };

int main(int argc, char **argv)
{
    int list = argc == 2 && strcmp(argv[1], "--list") == 0;
    for (size_t table = 0; argc == 2 && table < sizeof tables / sizeof tables[0]; table++)
        for (const struct test_case *test = tables[table]; test->name != NULL; test++) {
            if (list) puts(test->name);
            if (strcmp(test->name, argv[1]) != 0) continue;
            test->run();
            return 0;
        }
    if (!list) fprintf(stderr, "usage: fake_test NAME | --list\n");
    return !list;
}
