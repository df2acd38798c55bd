/**
 * The entry of a file thread: makes the calls that it is sent, one at a time. It may stay blocked in one for ever.
 */

/// <reference lib="deno.worker" />

import { Modules } from "../../modules.ts";
import { failureOf, type FileAnswer, type FileCall, type FileCallModule, type FileOrder } from "./file_call.ts";

const modules = new Modules<FileCallModule>("fileCall");
let idle: ReturnType<typeof setTimeout> | undefined;

self.onmessage = async ({ data: order }: MessageEvent<FileOrder>): Promise<void> => {
  clearTimeout(idle);
  if ("prepare" in order) await modules.load(order.prepare).catch(() => {}); // the first call reports it
  else self.postMessage(await answerTo(order.call));
  clearTimeout(idle);
  idle = setTimeout(() => self.postMessage("idle" satisfies FileAnswer), order.idleMs);
};

async function answerTo(call: FileCall): Promise<FileAnswer> {
  try {
    return { result: (await modules.load(call.module)).fileCall(call) };
  } catch (error) {
    return { failure: failureOf(error) };
  }
}
