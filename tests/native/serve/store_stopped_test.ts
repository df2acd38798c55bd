/**
 * A real xenstored that is stopped (SIGSTOP) and goes on: disks are served throughout, signals are obeyed in bounded
 * time, and the backend looks at its devices again afterwards.
 */

import { assertEquals, assertLess, assertMatch } from "@std/assert";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess, detach } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, assertProgress, GUEST, LOAD, newDisk, received, UNTIL_STOPPED } from "./scenes.ts";

/** The bound of one request to xenstored (1.5 s), and room for draining on a busy machine. */
const END_MS = 4_000;
const SILENT = /xenstore: connection lost \(xenstored has not answered for [0-9.]+ s\)/;

/** Stops xenstored until this is disposed. */
class Stopped implements Disposable {
  readonly #pid: number;

  constructor(xen: NativeXen) {
    this.#pid = xen.xenstoredPid!;
    Deno.kill(this.#pid, "SIGSTOP");
  }

  [Symbol.dispose](): void {
    Deno.kill(this.#pid, "SIGCONT");
  }
}

/** Ends a process by a signal; it must take no longer than the bound. */
async function endInTime(backend: BackendProcess, signal: Deno.Signal = "SIGTERM"): Promise<void> {
  const startMs = performance.now();
  assertEquals(await backend.stop(signal), 0, backend.messages);
  assertLess(performance.now() - startMs, END_MS, backend.messages);
  assertMatch(backend.messages, new RegExp(`ending: ${signal}\n`));
}

for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  nativeTest(`serve ends by ${signal} in time while xenstored is stopped; the next one serves the disk`, async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using guest = new GuestProcess(xen, GUEST);
    await using first = new BackendProcess(xen, ["serve"]);
    const { disk, device, image } = await newDisk(xen, guest, "disk.img", { sizeBytes: 2 ** 26 });
    await disk.connect();
    await disk.startLoad(UNTIL_STOPPED);
    {
      using _stopped = new Stopped(xen);
      await assertProgress(disk, 1000);
      await endInTime(first, signal);
    }
    await using second = new BackendProcess(xen, ["serve"]);
    await second.says(/connected:/);
    await assertProgress(disk, 1000);
    assertClean(received(await disk.stopLoad()), `${first.messages}\n${second.messages}`);
    await detach(xen, device);
    assertEquals((await disk.verify(image)).miscompares, 0);
    assertEquals(await second.stop(), 0, second.messages);
  });
}

nativeTest("a process that has lost a stopped xenstored goes on afterwards, or ends in time before", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  await using serving = new BackendProcess(xen, ["serve"]);
  const { disk, device } = await newDisk(xen, guest, "disk.img", { sizeBytes: 2 ** 26 });
  await disk.connect();
  // These look once a second whether the first process still serves the disk.
  await using waiting = new BackendProcess(xen, ["serve"]);
  await using ending = new BackendProcess(xen, ["serve"]);
  await waiting.says(/another process serves it/);
  await ending.says(/another process serves it/);
  await disk.startLoad(UNTIL_STOPPED);
  {
    using _stopped = new Stopped(xen);
    await waiting.says(SILENT);
    await ending.says(SILENT);
    await assertProgress(disk, 1000);
    await endInTime(ending);
  }
  await waiting.says(/xenstore: connected again/);
  assertClean(received(await disk.stopLoad()), serving.messages);
  assertEquals(await serving.stop(), 0, serving.messages);
  await waiting.says(/connected: /);
  assertClean(received(await disk.load({ ...LOAD, requests: 300 })), waiting.messages);
  await detach(xen, device);
  assertEquals(await waiting.stop(), 0, waiting.messages);
});

nativeTest("xenstored stops while the backend looks at a device: nothing but the connection is lost", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  await using backend = new BackendProcess(xen, ["serve"]);
  const { disk } = await newDisk(xen, guest, "disk.img", { sizeBytes: 2 ** 26 });
  await disk.connect();
  await disk.startLoad(UNTIL_STOPPED);
  const { device } = await newDisk(xen, guest, "flapping.img", { sizeBytes: 2 ** 24 });
  const flood = new URL("./flood_process.ts", import.meta.url).pathname;
  for (let time = 0; time < 3; time++) {
    const args = ["run", "-A", "--no-check", flood, "flaps", frontendPath(device), "1000000"];
    const flapping = new Deno.Command(Deno.execPath(), { args, env: xen.env(GUEST), stderr: "null" }).spawn();
    await backend.says(/xvdb of/);
    await new Promise((resolve) => setTimeout(resolve, 500 + 200 * Math.random()));
    {
      using _stopped = new Stopped(xen);
      await assertProgress(disk, 1000);
      // A watch that fires without end is dropped for a second: the look after that needs xenstored.
      await new Promise((resolve) => setTimeout(resolve, 4_000));
    }
    // Its own connection is lost as well.
    if (!(await Promise.race([flapping.status, Promise.resolve(undefined)]))) flapping.kill("SIGKILL");
    await flapping.status;
    await assertProgress(disk, 1000);
  }
  assertClean(received(await disk.stopLoad()), backend.messages);
  // Events that came before the stop cause looks after it.
  assertMatch(backend.messages, SILENT);
  await backend.says(/xenstore: connected again/);
  await endInTime(backend);
});
