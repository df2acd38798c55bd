/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Helpers of the test program: checks that end the process with a message, and a second process that acts as another
 * domain, with a channel of integers between the two.
 */
#ifndef FAKE_TEST_H
#define FAKE_TEST_H

#include <stdint.h>
#include <sys/types.h>

/* Ends the process with a message unless the condition holds. */
#define CHECK(condition) check((condition) != 0, #condition, __FILE__, __LINE__)
/* Ends the process unless the expression is the error value and errno is the code. */
#define CHECK_ERRNO(expression, code) (errno = 0, CHECK(expression), CHECK(errno == (code)))
void check(int condition, const char *text, const char *file, int line);

struct peer {
    pid_t pid;
    int channel;
};

/* Starts a process that acts as the domain and runs `body` with its end of the channel. */
struct peer peer_start(uint32_t domid, void (*body)(int channel));
/* Waits for the peer to end without a failed check. */
void peer_join(struct peer *peer);
/* Kills the peer, as a crash would, and waits for its end. */
void peer_kill(struct peer *peer);
void tell(int channel, uint32_t value);
uint32_t hear(int channel);

struct test_case {
    const char *name;
    void (*run)(void);
};

extern const struct test_case grant_cases[], event_cases[], churn_cases[]; /* end with a NULL name */

#endif
