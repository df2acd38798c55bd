/**
 * The states of this process's threads, as /proc shows them (proc_pid_stat(5)).
 */

import type { ThreadStates } from "../../lib/hypervisor.ts";
import { cString, libc } from "./libc.ts";

/** O_RDONLY and O_CLOEXEC. */
const READ_CLOEXEC = 0x80000;
/** The state stands before the numbers, behind a name of 15 characters at most. */
const HEAD_BYTES = 128;

/** Reads /proc by itself: Deno lets nobody read there who lacks any permission. */
export const nativeThreads: ThreadStates = {
  current: () => libc().gettid(),
  isHeld: (thread) => stateOf(thread) === "D",
  busyMs: (thread) => {
    const [run, waited] = headOf(`/proc/self/task/${thread}/schedstat`)?.split(" ", 2) ?? [];
    return run === undefined || waited === undefined ? undefined : (Number(run) + Number(waited)) / 1e6;
  },
};

/** The letter of its state; undefined if there is no such thread. */
function stateOf(thread: number): string | undefined {
  const text = headOf(`/proc/self/task/${thread}/stat`);
  return text?.[text.lastIndexOf(")") + 2];
}

/** The beginning of a file; undefined if there is none. */
function headOf(path: string): string | undefined {
  const fd = libc().open(cString(path), READ_CLOEXEC, 0);
  if (fd < 0) return undefined;
  const head = new Uint8Array(HEAD_BYTES);
  const count = libc().readBytes(fd, head, BigInt(HEAD_BYTES));
  libc().close(fd);
  return new TextDecoder("latin1").decode(head.subarray(0, Math.max(0, count)));
}
