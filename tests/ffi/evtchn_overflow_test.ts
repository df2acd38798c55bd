/**
 * Event channels when the driver's queue overflowed, which no real guest can be made to do on demand: a small C library
 * stands for libxenevtchn and for the C library's calls on its descriptor.
 */

import { assertEquals } from "@std/assert";
import { runScript } from "./child.ts";

/** Its read fails with EFBIG until the reset; from then on it yields every port that was unmasked by write. */
const DRIVER = `
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FD = 1000, PAGE = 4096, O_NONBLOCK_FLAG = 0x800 };
static uint32_t unmasked[4096];
static size_t count, given;
static int overflowed = 1, nonblocking, next_port = 100;

void *xenevtchn_open(void *logger, unsigned flags) { return &count; }
int xenevtchn_close(void *handle) { return 0; }
int xenevtchn_fd(void *handle) { return FD; }
int xenevtchn_bind_interdomain(void *handle, uint32_t domid, uint32_t port) { return next_port++; }
int xenevtchn_bind_unbound_port(void *handle, uint32_t domid) { return next_port++; }
int xenevtchn_notify(void *handle, uint32_t port) { return 0; }
int xenevtchn_unbind(void *handle, uint32_t port) { return 0; }

int fcntl(int fd, int op, ...)
{
    va_list list;
    va_start(list, op);
    if (op == 4) nonblocking = (va_arg(list, long) & O_NONBLOCK_FLAG) != 0;
    va_end(list);
    return 2;
}

int ioctl(int fd, unsigned long op, ...)
{
    if (fd != FD || op != 0x4505) return errno = ENOTTY, -1;
    overflowed = 0;
    return 0;
}

ssize_t read(int fd, void *buffer, size_t length)
{
    if (fd != FD) return syscall(SYS_read, fd, buffer, length);
    if (!nonblocking) return errno = EDEADLK, -1;
    if (overflowed) return errno = EFBIG, -1;
    if (given == count) return errno = EAGAIN, -1;
    if (length > PAGE) length = PAGE;
    if (length > (count - given) * 4) length = (count - given) * 4;
    memcpy(buffer, unmasked + given, length);
    given += length / 4;
    return length;
}

ssize_t write(int fd, const void *buffer, size_t length)
{
    if (fd != FD) return syscall(SYS_write, fd, buffer, length);
    if (length > PAGE) length = PAGE;
    if (given > 0) return length;
    memcpy(unmasked + count, buffer, length);
    count += length / 4;
    return length;
}
`;

const SCRIPT = `
  import { NativeEventChannels } from "./ffi/xen/evtchn.ts";
  const events = new NativeEventChannels(1);
  const bound = Array.from({ length: 2500 }, (_, index) => events.bindInterdomain(1, index));
  events.unbind(bound.pop());
  console.log(events.unrestricted);
  const ports = new Uint32Array(3000);
  console.log(events.take(ports));
  const taken = [];
  for (let count = events.take(ports); count !== 0; count = events.take(ports)) taken.push(...ports.subarray(0, count));
  console.log(taken.length, taken.every((port, index) => port === bound[index]));`;

/** Where the library was built, or why it could not be. */
async function build(directory: string): Promise<string> {
  const library = `${directory}/libdriver.so`;
  await Deno.writeTextFile(`${directory}/driver.c`, DRIVER);
  const args = ["-shared", "-fPIC", "-fno-builtin", "-o", library, `${directory}/driver.c`];
  const { success, stderr } = await new Deno.Command("gcc", { args }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return library;
}

const hasGcc = await new Deno.Command("sh", { args: ["-c", "command -v gcc"] }).output().then(({ success }) => success);
// deno-lint-ignore no-console -- why a test is ignored is to be seen
if (!hasGcc) console.log("event-channel overflow: ignored, gcc is missing (Debian package gcc)");

Deno.test(
  { name: "an overflow is reported once, and resets the queue and unmasks every bound port", ignore: !hasGcc },
  async () => {
    const directory = await Deno.makeTempDir();
    try {
      const library = await build(directory);
      const result = await runScript(SCRIPT, ["-A"], {
        XENBLK_LIBC: library,
        XENBLK_LIBXENEVTCHN: library,
      });
      assertEquals(result.stdout, "libxenevtchn is too old\n-1\n2499 true\n", result.stderr);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
);
