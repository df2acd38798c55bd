/**
 * qemu-img for tests: run to its end, and again where it could not measure how fast this machine derives keys, as the
 * product does it.
 */

import { assertEquals } from "@std/assert";
import { makeByQemuImg } from "../../lib/storage/qemu/qemu_img.ts";

/** What it prints; rejects with its complaint if it fails. */
export async function qemuImg(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await makeByQemuImg(args);
  assertEquals(status, 0, `qemu-img ${args.join(" ")}: ${stderr}`);
  return stdout;
}
