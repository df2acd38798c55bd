/**
 * What one connected disk costs while the process is at rest: its memory and threads, once what the start needed has been
 * given back.
 */

import { assert } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, sparseImage } from "./backend.ts";
import { GuestProcess } from "./guest.ts";

/** From TypeScript; JavaScript, as packages have it, takes 8 MiB less. */
const MOST_MIB = 72;
/** One of them is of the stand-in for libxenevtchn. */
const MOST_THREADS = 10;
/** The memory is given back after 20 s. */
const PATIENCE_MS = 45_000;

function atRest(pid: number): { readonly mib: number; readonly threads: number } {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  const number = (key: string): number => Number(new RegExp(`^${key}:\\s+(\\d+)`, "m").exec(status)![1]);
  return { mib: number("VmRSS") / 1024, threads: number("Threads") };
}

nativeTest("a process with one disk at rest takes little memory and few threads, and its guest reads on", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(1);
  await using backend = new BackendProcess(xen, ["serve"]);
  await using guest = new GuestProcess(xen, 1);
  const device = await attach(xen, {
    domain: 1 as DomId,
    params: `aio:${sparseImage(xen.directory, "a.img", 2 ** 24)}`,
  });
  const disk = await guest.disk(frontendPath(device));
  await disk.connect();
  const load = { seed: 1, readShare: 0.5, blockBytes: [4096], depth: 8, requests: 20_000 } as const;
  const read = async (): Promise<void> => {
    const { errors, miscompares } = await disk.load({ ...load, pattern: "random", flushEvery: 0, barrierEvery: 0 });
    assert(errors + miscompares === 0);
  };
  await read();
  const end = performance.now() + PATIENCE_MS;
  let now = atRest(backend.pid);
  while (now.mib > MOST_MIB || now.threads > MOST_THREADS) {
    assert(performance.now() < end, `${now.mib.toFixed(1)} MiB and ${now.threads} threads at rest`);
    await new Promise((resolve) => setTimeout(resolve, 500));
    now = atRest(backend.pid);
  }
  await read();
});
