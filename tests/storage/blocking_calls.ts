/**
 * Calls for file threads that block as long as a file exists, fail in chosen ways, or end their thread. Stand in for
 * system calls on storage that does not answer.
 */

import { XenblkError } from "../../lib/errors.ts";
import type { FileCall } from "../../lib/storage/image/file_call.ts";

const clock = new Int32Array(new SharedArrayBuffer(4));

/** What a test lets a file thread do. */
export type BlockingCall = FileCall & {
  /** Do not return while this file exists. */
  readonly hold?: string;
  readonly then?: "return" | "fail" | "refuse" | "die";
};

/** See FileCallModule. Returns the number of calls that this thread has made. */
export function fileCall(call: FileCall): number {
  const { hold, then } = call as BlockingCall;
  made++;
  while (hold !== undefined && exists(hold)) Atomics.wait(clock, 0, 0, 2);
  if (then === "fail") throw Object.assign(new Error("Too many open files (EMFILE)"), { code: "EMFILE" });
  if (then === "refuse") throw new XenblkError("Cannot do it", { kind: "usage", remedy: "do not" });
  if (then === "die") {
    queueMicrotask(() => {
      throw new Error("a defect");
    });
  }
  return made;
}

let made = 0;

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
