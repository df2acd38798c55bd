/**
 * Shared by the tests of `serve` in its own process: disks for a guest, loads, the check of a load's outcome, and a
 * loop that ends and restarts the backend under load.
 */

import { assert, assertEquals } from "@std/assert";
import type { AbiName } from "../../../lib/blkif/abi.ts";
import type { DomId } from "../../../lib/hypervisor.ts";
import { type LoadOutcome, type LoadSpec, MIXED_LOAD } from "../../../lib/guest/load_types.ts";
import { type DeviceAddress, frontendPath } from "../../../lib/xenbus/paths.ts";
import { NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach, sparseImage } from "./backend.ts";
import { type GuestDisk, GuestProcess, type RingShape } from "./guest.ts";

/** The guest of tests that need only one. */
export const GUEST = 7;
export const IMAGE_BYTES = 2 ** 30;

export const LOAD: LoadSpec = { ...MIXED_LOAD, flushEvery: 100, barrierEvery: 150 };
export const UNTIL_STOPPED: LoadSpec = { ...LOAD, blockBytes: { min: 512, max: 16384 } };

/** Asserts that every request was answered OKAY and every byte was right. */
export function assertClean(outcome: LoadOutcome, what: string): void {
  const { errors, errorsByKind, miscompares, firstMiscompare, protocolErrors, firstProtocolError, unanswered } =
    outcome;
  assertEquals(
    { errors, errorsByKind, miscompares, firstMiscompare, protocolErrors, firstProtocolError, unanswered },
    {
      errors: 0,
      errorsByKind: {},
      miscompares: 0,
      firstMiscompare: undefined,
      protocolErrors: 0,
      firstProtocolError: undefined,
      unanswered: 0,
    },
    what,
  );
}

/** Waits until the running load has had that many more responses. Fails if that takes longer than a minute. */
export async function assertProgress(disk: GuestDisk, responses: number): Promise<void> {
  const { answered } = await disk.pauses();
  for (const end = performance.now() + 60_000; (await disk.pauses()).answered < answered + responses;) {
    assert(performance.now() < end, `the guest did not get ${responses} responses within 60 s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Adds the members that JSON drops because they are undefined. */
export function received(outcome: LoadOutcome): LoadOutcome {
  return { ...outcome, firstMiscompare: outcome.firstMiscompare, firstProtocolError: outcome.firstProtocolError };
}

/** Attaches a new disk to a guest. Its image is in the given folder, else in memory. */
export async function newDisk(
  xen: NativeXen,
  guest: GuestProcess,
  name: string,
  options: { readOnly?: boolean; abi?: AbiName; sizeBytes?: number; shape?: RingShape; folder?: string } = {},
): Promise<{ disk: GuestDisk; device: DeviceAddress; image: string }> {
  const image = sparseImage(options.folder ?? xen.directory, name, options.sizeBytes ?? IMAGE_BYTES);
  const domain = guest.domid as DomId;
  const device = await attach(xen, { domain, params: `aio:${image}`, readOnly: options.readOnly ?? false });
  return { disk: await guest.disk(frontendPath(device), options.abi, {}, options.shape), device, image };
}

/** A folder on a real file system. Disposing it removes it with its files. */
export class DiskFolder implements Disposable {
  readonly path = Deno.makeTempDirSync({ prefix: "xenblk-disks-" });

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** A guest's rings and requests, a load for them, and the arguments of `serve`. */
export interface Loading {
  readonly shape: RingShape;
  readonly load: LoadSpec;
  readonly args: readonly string[];
}

/** One ring of one page, and direct requests. */
export const NARROW: Loading = { shape: {}, load: UNTIL_STOPPED, args: [] };

/** {@linkcode NARROW} through I/O Workers, so that requests are in flight when a process ends. */
export const POOLED: Loading = { ...NARROW, args: ["--engine", "file"] };
/** {@linkcode NARROW} through io_uring with O_DIRECT, so that requests are in flight when a process ends. */
export const DIRECT: Loading = { ...NARROW, args: ["--engine", "uring", "--cache", "none"] };

/** Four rings of 16 pages, and requests of up to 1 MiB. */
export const WIDE: Loading = {
  shape: { ringPages: 16, queues: 4, segments: 256, requests: 64 },
  load: { ...LOAD, blockBytes: { min: 512, max: 2 ** 20 }, depth: 64, flushEvery: 50, discardEvery: 40 },
  args: ["--queues", "4"],
};

/** Ends one `serve` after another by the signal while the guest's load runs. Returns the messages of all that ended. */
export async function endAgainAndAgain(
  grants: string,
  signal: Deno.Signal,
  times: number,
  { shape, load, args }: Loading = NARROW,
): Promise<string> {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  using folder = new DiskFolder();
  const { disk, device, image } = await newDisk(xen, guest, "disk.img", {
    sizeBytes: 2 ** 26,
    shape,
    folder: folder.path,
  });
  await using stack = new AsyncDisposableStack();
  const serve = (): BackendProcess => stack.use(new BackendProcess(xen, ["serve", "--grants", grants, ...args]));
  let backend = serve();
  await disk.connect();
  await disk.startLoad(load);
  let said = "";
  for (let time = 0; time < times; time++) {
    await backend.says(/connected:/);
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 300));
    const status = await backend.stop(signal);
    if (signal === "SIGTERM") assertEquals(status, 0, backend.messages);
    said += backend.messages;
    const state = await xen.run("xenstore-read", [`/local/domain/0/backend/vbd3/${GUEST}/${device.vdev}/state`]);
    assertEquals(state.trim(), "4", `the device stays Connected; ${said}`);
    backend = serve();
  }
  await backend.says(/connected:/);
  const outcome = received(await disk.stopLoad());
  assertClean(outcome, backend.messages);
  assert(outcome.writes > times, `only ${outcome.writes} writes`);
  await detach(xen, device);
  assertEquals((await disk.verify(image)).miscompares, 0);
  assertEquals(await backend.stop(), 0, backend.messages);
  assertEquals([...Deno.readDirSync(`${xen.directory}/journals`)], [], "the journals are removed with the connection");
  return said;
}
