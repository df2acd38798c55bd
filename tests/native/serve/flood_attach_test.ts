/**
 * A guest that rewrites its frontend's state without end: its neighbour connects about as fast as under the same flood
 * on nodes that nobody serves.
 */

import { assertEquals, assertLess } from "@std/assert";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { newDisk } from "./scenes.ts";

const HOSTILE = 7;
const NEIGHBOUR = 8;
const ATTACHES = 5;
/** What a busy machine adds; without the bounds an attach took 17 s. */
const NOISE_MS = 500;

/** Floods below a path until it is disposed. */
class Flood implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;

  constructor(xen: NativeXen, path: string) {
    const program = new URL("./flood_process.ts", import.meta.url).pathname;
    const args = ["run", "-A", "--no-check", program, "flaps", path, "1000000000"];
    this.#child = new Deno.Command(Deno.execPath(), { args, env: xen.env(HOSTILE), stdin: "null" }).spawn();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
  }
}

nativeTest("a flood of a guest's states delays its neighbour's attach no more than any other flood", async () => {
  await using xen = await NativeXen.start();
  for (const domid of [HOSTILE, NEIGHBOUR]) await xen.createDomain(domid);
  await using backend = new BackendProcess(xen, ["serve"]);
  await using hostile = new GuestProcess(xen, HOSTILE);
  await using neighbour = new GuestProcess(xen, NEIGHBOUR);
  const served = await newDisk(xen, hostile, "hostile.img", { sizeBytes: 2 ** 24 });
  await backend.says(/offering/);
  let images = 0;
  /** The longest time from the frontend's start to Connected, of several attaches. */
  const worstMs = async (path: string): Promise<number> => {
    await using _flood = new Flood(xen, path);
    await new Promise((resolve) => setTimeout(resolve, 300));
    let worst = 0;
    for (let time = 0; time < ATTACHES; time++) {
      const { disk } = await newDisk(xen, neighbour, `${images++}.img`, { sizeBytes: 2 ** 24 });
      const startMs = performance.now();
      await disk.connect();
      worst = Math.max(worst, performance.now() - startMs);
    }
    return worst;
  };
  const elsewhere = await worstMs(`/local/domain/${HOSTILE}/data/x`);
  assertLess(await worstMs(frontendPath(served.device)), 2 * elsewhere + NOISE_MS, backend.messages);
  assertEquals(await backend.stop(), 0, backend.messages);
});
