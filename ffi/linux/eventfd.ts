/**
 * Eventfds (eventfd(2)): counters of the kernel, to wake a thread that sleeps in poll(2) or on an io_uring. Nonblocking.
 * This thread's buffers for reading and writing them are made once.
 */

import { errno, errnoText, libc, pointerTo } from "./libc.ts";
import { lazily } from "./library.ts";
import { allocate } from "./memory.ts";

const EFD_CLOEXEC_NONBLOCK = 0x80800;
const COUNTER_BYTES = 8n;

/** What this thread writes (a counter of 1) and where it reads to: pointers made once, memory never freed. */
const buffers = lazily(() => {
  const { address, view } = allocate(2 * Number(COUNTER_BYTES));
  view[0] = 1;
  return { one: pointerTo(address), count: pointerTo(address + Number(COUNTER_BYTES)) };
});

/** Makes a nonblocking eventfd. Throws an Error when the process may open no more files. */
export function createEventfd(): number {
  const fd = libc().eventfd(0, EFD_CLOEXEC_NONBLOCK);
  if (fd < 0) throw new Error(`Cannot make an eventfd: ${errnoText(errno())}`);
  return fd;
}

/** Makes the descriptor readable. One that is so already stays it. */
export function raiseEventfd(fd: number): void {
  libc().write(fd, buffers().one, COUNTER_BYTES);
}

/** Makes the descriptor unreadable until it is raised again. */
export function lowerEventfd(fd: number): void {
  libc().read(fd, buffers().count, COUNTER_BYTES);
}
