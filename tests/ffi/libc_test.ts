/**
 * The C library through FFI: memory, eventfds, poll and errno of this very process. Must know nothing of Xen.
 */

import { EAGAIN, EINVAL, ENOENT, errnoName } from "../../lib/errno.ts";
import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { createEventfd, lowerEventfd, raiseEventfd } from "../../ffi/linux/eventfd.ts";
import { cString, errno, errnoText, libc, pointerTo } from "../../ffi/linux/libc.ts";
import { allocate, nativeMemory } from "../../ffi/linux/memory.ts";
import { PollSet } from "../../ffi/linux/poll.ts";

// Opened outside the tests, for good: the leak check of Deno.test would take it for a forgotten library.
libc();

/** Bytes that this process has mapped. */
function mappedPages(): number {
  return Number(Deno.readTextFileSync("/proc/self/statm").split(" ")[0]);
}

Deno.test("memory is zeroed, page-aligned, writable and visible at its address", () => {
  using memory = allocate(10_000);
  assertEquals(memory.address % 4096, 0);
  assertEquals(memory.view.length, 10_000);
  assert(memory.view.every((byte) => byte === 0));
  memory.view[9_999] = 77;
  assertEquals(nativeMemory.view(memory.address + 9_999, 1)[0], 77);
});

Deno.test("disposed memory is unmapped, and only once", () => {
  const large = 1 << 30;
  const before = mappedPages();
  const memory = allocate(large);
  assert(mappedPages() - before >= large / 4096);
  memory[Symbol.dispose]();
  memory[Symbol.dispose]();
  assert(mappedPages() - before < large / 4096);
});

Deno.test("memory that is given back is zero when it is used again, and has no pages until then", () => {
  const residentPages = (): number => Number(Deno.readTextFileSync("/proc/self/statm").split(" ")[1]);
  const pages = 16_384;
  using memory = allocate(pages * 4096);
  memory.view.fill(77);
  const before = residentPages();
  memory.discard();
  assert(before - residentPages() > pages / 2, `${before} pages before, ${residentPages()} after`);
  assertEquals([memory.view[0], memory.view[4096 * pages - 1]], [0, 0]);
  memory.view[5] = 1;
  assertEquals(nativeMemory.view(memory.address, 8)[5], 1);
});

Deno.test("a view that outlives its memory is empty, and harmless", () => {
  const memory = allocate(4096);
  const words = new Uint32Array(memory.view.buffer);
  words[1] = 5;
  memory[Symbol.dispose]();
  words[1] = 6;
  assertEquals([words[1], words.length, memory.view.length, memory.view[0]], [undefined, 0, 0, undefined]);
});

Deno.test("memory that cannot be had is a RangeError with the reason", () => {
  const error = assertThrows(() => allocate(2 ** 52), RangeError, "Cannot allocate 4503599627370496 bytes");
  assertStringIncludes(error.message, "ENOMEM");
  assertThrows(() => allocate(0), RangeError, "not a positive whole number");
});

Deno.test("errno is that of the last failed call", () => {
  for (let round = 0; round < 1000; round++) {
    assertEquals(libc().close(-1), -1);
    assertEquals(errnoName(errno()), "EBADF");
    assertEquals(libc().access(cString("/does/not/exist"), 0), -1);
    assertEquals(errno(), ENOENT);
  }
});

Deno.test("errno values have their C names and words", () => {
  assertEquals(errnoText(ENOENT), "No such file or directory (ENOENT)");
  assertEquals([errnoName(EAGAIN), errnoName(EINVAL), errnoName(40)], ["EAGAIN", "EINVAL", "ELOOP"]);
  assertEquals([errnoName(104), errnoName(0), errnoName(-5)], ["ECONNRESET", "errno 0", "errno -5"]);
  assertMatch(errnoText(5000), /errno 5000/);
});

Deno.test("a text with a NUL never reaches C", () => {
  assertThrows(() => cString("/a\0b"), TypeError, "contains a NUL");
});

Deno.test("poll tells which eventfds are raised, in a set larger than a page", () => {
  using polled = new PollSet();
  const first = createEventfd();
  const raised = createEventfd();
  polled.add(first);
  for (let copy = 1; copy < 600; copy++) polled.add(first);
  polled.add(raised);
  raiseEventfd(raised);
  polled.wait(-1);
  assertEquals([polled.isReady(0), polled.isReady(599), polled.isReady(600)], [false, false, true]);
  lowerEventfd(raised);
  polled.wait(0);
  assertEquals(polled.isReady(600), false);
  raiseEventfd(raised);
  polled.remove(first);
  polled.wait(0);
  assertEquals(polled.isReady(599), true);
  libc().close(first);
  libc().close(raised);
});

Deno.test("poll waits as long as told, and rounds a fraction of a millisecond up", () => {
  using polled = new PollSet();
  const start = performance.now();
  polled.wait(19.5);
  const waitedMs = performance.now() - start;
  assert(waitedMs >= 19.5, `waited ${waitedMs} ms`);
  assertLess(waitedMs, 30_000);
});

Deno.test("poll on a pool thread leaves this thread free, and an eventfd ends it", async () => {
  using polled = new PollSet();
  const fd = createEventfd();
  polled.add(fd);
  const waiting = polled.waitOnPool(-1);
  await new Promise((resolve) => setTimeout(resolve, 5));
  raiseEventfd(fd);
  await waiting;
  assertEquals(polled.isReady(0), true);
  libc().close(fd);
});

Deno.test("an eventfd is nonblocking: reading a lowered one returns at once with EAGAIN", () => {
  using memory = allocate(8);
  const fd = createEventfd();
  assertEquals(libc().read(fd, pointerTo(memory.address), 8n), -1);
  assertEquals(errno(), EAGAIN);
  libc().close(fd);
});
