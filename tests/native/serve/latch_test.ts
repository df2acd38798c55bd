/**
 * A flush that fails once, because the kernel reports a failure only once. From then on no write and no flush of the
 * disk succeeds, in any process and however the last process ended, until the disk is attached again.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess, detach, nodeValue } from "./backend.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import { assertClean, GUEST, LOAD, newDisk, received } from "./scenes.ts";

const IMAGE_BYTES = 2 ** 24;
const PATIENCE_MS = 60_000;
const READS = { ...LOAD, readShare: 1, flushEvery: 0, barrierEvery: 0, requests: 50 };
const WRITES = { ...LOAD, readShare: 0, flushEvery: 5, barrierEvery: 7, requests: 50 };

/** Serves with a stand-in for fdatasync that can be made to fail. */
function serve(xen: NativeXen, args: readonly string[]): BackendProcess {
  const preload = ["env", `LD_PRELOAD=${xen.libraries}/flush_shim.so`];
  return new BackendProcess(xen, ["serve", "--engine", "file", ...args], preload);
}

/** Reads succeed, everything else fails. */
async function assertLatched(disk: GuestDisk, backend: BackendProcess): Promise<void> {
  assertClean(received(await disk.load(READS)), backend.messages);
  const { errors, miscompares, protocolErrors, unanswered } = await disk.load(WRITES);
  assert(errors >= WRITES.requests, `only ${errors} errors; ${backend.messages}`);
  assertEquals([miscompares, protocolErrors, unanswered], [0, 0, 0]);
  assertMatch(backend.messages, /a flush failed since it was attached/);
}

for (const args of [[], ["--no-journal"]]) {
  const how = args.map((arg) => `, ${arg}`).join("");
  nativeTest(
    `a disk refuses writes after a failed flush, across kill -9 and SIGTERM, until the next attach${how}`,
    async () => {
      await using xen = await NativeXen.start();
      await xen.createDomain(GUEST);
      await using guest = new GuestProcess(xen, GUEST);
      const { disk, device } = await newDisk(xen, guest, "disk.img", { sizeBytes: IMAGE_BYTES });
      await using stack = new AsyncDisposableStack();
      const start = (): BackendProcess => stack.use(serve(xen, args));
      let backend = start();
      await disk.connect();
      assertClean(received(await disk.load({ ...LOAD, requests: 200 })), backend.messages);
      Deno.writeTextFileSync(`${xen.directory}/fail-flush`, "");
      const failed = await disk.load({ ...WRITES, seed: 2 });
      assert(failed.errors > 0, "the failed flush and the requests after it must fail");
      await backend.says(/writes are refused from now on/, PATIENCE_MS);
      assertMatch(await nodeValue(xen, `${backendPath(device)}/error`), /a flush failed since it was attached/);
      assertMatch(backend.messages, /a flush failed since it was attached/, "at once, not when it connects again");
      for (const signal of ["SIGKILL", "SIGTERM", "SIGKILL"] as const) {
        const status = await backend.stop(signal);
        if (signal === "SIGTERM") assertEquals(status, 0, backend.messages);
        backend = start();
        await backend.says(/connected:/, PATIENCE_MS);
        await assertLatched(disk, backend);
      }
      await detach(xen, device);
      const anew = await newDisk(xen, guest, "disk.img", { sizeBytes: IMAGE_BYTES });
      assertEquals(anew.device.vdev, device.vdev, "the same name");
      await anew.disk.connect();
      assertClean(received(await anew.disk.load({ ...LOAD, requests: 200 })), backend.messages);
      await detach(xen, anew.device);
      assertEquals(await backend.stop(), 0, backend.messages);
      assertEquals([...Deno.readDirSync(`${xen.directory}/journals`)], []);
    },
  );
}
