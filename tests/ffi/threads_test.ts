/**
 * What the kernel does with a thread: its number and state, whatever its name is.
 */

import { assertEquals } from "@std/assert";
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
