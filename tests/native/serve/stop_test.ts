/**
 * `xenblk serve` ended by SIGTERM while a guest is connecting: it ends with status 0 and in time, and the next process
 * connects the guest. The moment is random. At rest it ends without work that the kernel does anyway.
 */

import { assertEquals } from "@std/assert";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, GUEST, LOAD, newDisk, received } from "./scenes.ts";

const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const TIMES = FULL ? 25 : 4;
/** The time from the frontend's start to its first request, if Workers have to start. */
const CONNECTING_MS = 400;

for (const engine of ["uring", "file"]) {
  nativeTest(
    `serve ended ${TIMES} times while a disk connects ends with 0, and the next one serves the disk, ${engine}`,
    async () => {
      await using xen = await NativeXen.start();
      await xen.createDomain(GUEST);
      await using guest = new GuestProcess(xen, GUEST);
      await using stack = new AsyncDisposableStack();
      const serve = (): BackendProcess => stack.use(new BackendProcess(xen, ["serve", "--engine", engine]));
      const shape = { ringPages: 4, queues: 4, segments: 64 };
      for (let time = 0; time < TIMES; time++) {
        const first = serve();
        await first.says(/serving all/);
        const { disk, image } = await newDisk(xen, guest, `${time}.img`, { sizeBytes: 2 ** 24, shape });
        const connected = disk.connect();
        connected.catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, Math.random() * CONNECTING_MS));
        assertEquals(await first.stop(), 0, first.messages);
        const second = serve();
        await connected;
        assertClean(received(await disk.load({ ...LOAD, requests: 200 })), `${first.messages}\n${second.messages}`);
        await disk.disconnect();
        assertEquals((await disk.verify(image)).miscompares, 0);
        assertEquals(await second.stop(), 0, second.messages);
      }
    },
  );
}

/** The names of a process's threads; none once it has ended. */
function threadsOf(pid: number): string[] {
  const read = (thread: string): string[] => {
    try {
      return [Deno.readTextFileSync(`/proc/${pid}/task/${thread}/comm`).trim()];
    } catch {
      return [];
    }
  };
  try {
    return [...Deno.readDirSync(`/proc/${pid}/task`)].flatMap(({ name }) => read(name));
  } catch {
    return [];
  }
}

nativeTest("serve ended by SIGTERM at rest starts no thread to close the image, since its guest waits", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  await using serve = new BackendProcess(xen, ["serve"]);
  const { disk } = await newDisk(xen, guest, "a.img", { sizeBytes: 2 ** 24 });
  await disk.connect();
  await serve.says(/connected:/);
  const workers = (): string[] => threadsOf(serve.pid).filter((name) => name.startsWith("worker-"));
  // The one that has opened the image ends when it is idle; the other one is the reactor.
  while (workers().length > 1) await new Promise((resolve) => setTimeout(resolve, 50));
  const seen = new Set<string>(workers());
  const look = setInterval(() => workers().forEach((name) => seen.add(name)), 1);
  assertEquals(await serve.stop(), 0, serve.messages);
  clearInterval(look);
  assertEquals(seen.size, 1, [...seen].join(", "));
  await using next = new BackendProcess(xen, ["serve"]);
  await next.says(/connected:/);
  assertClean(received(await disk.load({ ...LOAD, requests: 200 })), next.messages);
});
