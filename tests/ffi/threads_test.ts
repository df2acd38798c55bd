/**
 * What the kernel does with a thread: its number and state, whatever its name is.
 */

import { assert, assertEquals } from "@std/assert";
import { libc } from "../../ffi/linux/libc.ts";
import { nativeThreads } from "../../ffi/linux/threads.ts";

libc(); // outside of the test, whose leak check would find it

Deno.test("a thread knows its number, and one that runs is not held, even if its name looks like a state", () => {
  const thread = nativeThreads.current();
  assertEquals(`${Deno.pid}/task/${thread}`, Deno.readLinkSync("/proc/thread-self"));
  const nameFile = `/proc/self/task/${thread}/comm`;
  const name = Deno.readTextFileSync(nameFile);
  try {
    Deno.writeTextFileSync(nameFile, "a) D 1 (");
    assertEquals(nativeThreads.isHeld(thread), false);
  } finally {
    Deno.writeTextFileSync(nameFile, name.trimEnd());
  }
  assertEquals(nativeThreads.isHeld(0), false, "there is no such thread");
});

Deno.test("a thread's time on a processor grows while it works", () => {
  const thread = nativeThreads.current();
  const before = nativeThreads.busyMs!(thread);
  if (before === undefined) return; // a kernel without CONFIG_SCHED_INFO
  const end = performance.now() + 50;
  while (performance.now() < end);
  const worked = nativeThreads.busyMs!(thread)!;
  assert(worked - before >= 40, `${worked - before} ms of 50`);
  assertEquals(nativeThreads.busyMs!(0), undefined, "there is no such thread");
});
