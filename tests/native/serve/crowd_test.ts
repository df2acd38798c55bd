/**
 * Many disks of many guests in one `xenblk serve`, by counts: descriptors and mappings of a disk, what is left after all
 * were detached, and a process that ends and is followed while all are connected. `deno task bench:thousand` measures the
 * same with a thousand disks, and times.
 */

import { assert, assertEquals } from "@std/assert";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess } from "./backend.ts";
import { Crowd } from "./crowd.ts";
import { DiskFolder } from "./scenes.ts";
import { workersIdle } from "./threads.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const GUESTS = FULL ? 40 : 4;
const DISKS_EACH = 4;
const DISKS = GUESTS * DISKS_EACH;

/** What descriptors of the process lead to, and how many do. */
function descriptors(pid: number): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { name } of Deno.readDirSync(`/proc/${pid}/fd`)) {
    const kind = kindOf(pid, name);
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return counts;
}

function kindOf(pid: number, name: string): string {
  try {
    const target = Deno.readLinkSync(`/proc/${pid}/fd/${name}`);
    return /\.img$/.test(target) ? "image" : /\.lock$/.test(target) ? "lock" : /\/machine$/.test(target) ? "guest" : "";
  } catch {
    return ""; // it was closed meanwhile
  }
}

nativeTest(
  `${DISKS} disks of ${GUESTS} guests: three descriptors each, two a guest and reactor, none when detached`,
  async () => {
    await using xen = await NativeXen.start();
    using folder = new DiskFolder();
    await using backend = new BackendProcess(xen, ["serve", "--workers", "1"]);
    await backend.says(/serving/);
    await using crowd = new Crowd(xen);
    await crowd.create(1, GUESTS);
    await crowd.attach(1, GUESTS, DISKS_EACH, folder.path);
    await crowd.connect();
    const open = descriptors(backend.pid);
    assertEquals(open.get("lock"), DISKS);
    assertEquals(open.get("image"), 2 * DISKS);
    // Event channels and grants; the stand-in libraries have a descriptor of the machine for each handle.
    assertEquals(open.get("guest"), 2 * GUESTS);
    await crowd.beginReads(50);
    assertEquals((await crowd.endReads()).length, DISKS);
    await workersIdle(backend.pid);
    await crowd.detach();
    const { ports, mappedPages } = await backend.holdings();
    assertEquals([ports, mappedPages], [0, 0]);
    for (const end = performance.now() + 20_000; descriptors(backend.pid).has("lock") && performance.now() < end;) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assertEquals([...descriptors(backend.pid).keys()], [""]);
    assertEquals(await backend.stop(), 0, backend.messages);
  },
);

nativeTest(`a process with ${DISKS} connected disks ends or is killed: the next one answers all guests`, async () => {
  await using xen = await NativeXen.start();
  using folder = new DiskFolder();
  let backend = new BackendProcess(xen, ["serve"]);
  await using processes = new AsyncDisposableStack();
  processes.defer(() => backend[Symbol.asyncDispose]());
  await using crowd = new Crowd(xen);
  await crowd.create(1, GUESTS);
  await crowd.attach(1, GUESTS, DISKS_EACH, folder.path);
  await crowd.connect();
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    await crowd.beginReads(20);
    await backend.stop(signal);
    assertEquals(await crowd.connected(), DISKS);
    backend = new BackendProcess(xen, ["serve"]);
    await backend.says(/serving/);
    const longestMs = await crowd.endReads();
    assert(longestMs.every((ms) => ms > 0), "a read of each disk was answered");
  }
  await crowd.detach();
  assertEquals(await backend.stop(), 0, backend.messages);
});
