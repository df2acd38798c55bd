/**
 * `xenblk serve` on media that fail: a full file system, a truncated file, a device with unreadable sectors; and on a
 * machine with busy processors. The guest sees ERROR for exactly the requests that met the fault, the log names image,
 * sector and reason, and the disk keeps working.
 */

import { assert, assertEquals } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import type { LoadSpec } from "../../../lib/guest/load_types.ts";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { missingProgram, nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach, sparseImage } from "./backend.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import { assertClean, DiskFolder, GUEST, LOAD, received } from "./scenes.ts";

const MIB = 2 ** 20;
const SECTORS_PER_MIB = MIB / 512;

/** Accesses each sector of the disk once, in requests of the largest size that is not indirect. */
function sweep(sizeBytes: number, readShare: number): LoadSpec {
  const blockBytes = 32 * 1024;
  const load = { ...LOAD, pattern: "sequential", flushEvery: 0, barrierEvery: 0, depth: 8 } as const;
  return { ...load, readShare, blockBytes: [blockBytes], requests: sizeBytes / blockBytes };
}

function area(fromMib: number, sizeMib: number): NonNullable<LoadSpec["area"]> {
  return { firstSector: fromMib * SECTORS_PER_MIB, sectors: sizeMib * SECTORS_PER_MIB };
}

/** Runs an administrator's program and returns its output. */
function administer(program: string, ...args: string[]): string {
  const { success, stdout, stderr } = new Deno.Command(program, { args }).outputSync();
  const decoder = new TextDecoder();
  assert(success, `${program} ${args.join(" ")}: ${decoder.decode(stderr)}`);
  return decoder.decode(stdout).trim();
}

/** A guest with one disk on the given image, and the backend that serves it. */
class Bench implements AsyncDisposable {
  private constructor(
    readonly xen: NativeXen,
    readonly backend: BackendProcess,
    readonly disk: GuestDisk,
    readonly end: () => Promise<void>,
    readonly stack: AsyncDisposableStack,
  ) {}

  static async start(image: string, ...args: string[]): Promise<Bench> {
    const stack = new AsyncDisposableStack();
    const xen = stack.use(await NativeXen.start());
    await xen.createDomain(GUEST);
    const guest = stack.use(new GuestProcess(xen, GUEST));
    const backend = stack.use(new BackendProcess(xen, ["serve", ...args]));
    const device = await attach(xen, { domain: GUEST as DomId, params: `aio:${image}` });
    const disk = await guest.disk(frontendPath(device));
    await disk.connect();
    const end = async (): Promise<void> => {
      await detach(xen, device);
      assertEquals(await backend.stop(), 0, backend.messages);
    };
    return new Bench(xen, backend, disk, end, stack);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack[Symbol.asyncDispose]();
  }
}

/** A memory file system of the given size. Disposing it removes it with its files. */
class SmallFileSystem implements Disposable {
  readonly #folder = new DiskFolder();
  readonly path = this.#folder.path;

  constructor(sizeMib: number) {
    administer("mount", "-t", "tmpfs", "-o", `size=${sizeMib}m`, "none", this.path);
  }

  resize(sizeMib: number): void {
    administer("mount", "-o", `remount,size=${sizeMib}m`, this.path);
  }

  [Symbol.dispose](): void {
    administer("umount", this.path);
    this.#folder[Symbol.dispose]();
  }
}

const DISK_MIB = 32;
const ROOM_MIB = 8;

for (const args of [["--engine", "uring"], ["--engine", "file"], ["--cache", "none"]]) {
  nativeTest(
    `writes fail while the file system is full, and succeed again once it has room, ${args.join(" ")}`,
    async () => {
      using folder = new SmallFileSystem(ROOM_MIB);
      const image = sparseImage(folder.path, "disk.img", DISK_MIB * MIB);
      await using bench = await Bench.start(image, ...args);
      const { disk, backend } = bench;
      const full = received(await disk.load(sweep(DISK_MIB * MIB, 0)));
      const { errors, errorsByKind, writes, miscompares, protocolErrors, unanswered } = full;
      assertEquals([errorsByKind, miscompares, protocolErrors, unanswered], [{ "write -1": errors }, 0, 0, 0]);
      assert(writes > 0 && writes <= ROOM_MIB * 32 && errors > 0, `${writes} writes, ${errors} errors`);
      const line = new RegExp(`WRITE at sector \\d+ of ${image}: I/O failed: ENOSPC, the file system below .* is full`);
      await backend.says(line);

      const reading = received(await disk.load({ ...sweep(DISK_MIB * MIB, 1), seed: 2 }));
      assertClean(reading, "written blocks read back, and blocks of failed writes are unchanged");
      assert(reading.verifiedSectors > 0);
      folder.resize(2 * DISK_MIB);
      assertClean(received(await disk.load({ ...sweep(DISK_MIB * MIB, 0), seed: 3 })), backend.messages);
      const outcome = received(await disk.load({ ...LOAD, seed: 4, requests: 500 }));
      assertClean(outcome, backend.messages);
      assertEquals(outcome.uncheckedSectors, 0, "the content of every sector is known");
      await bench.end();
      assertEquals((await disk.verify(image)).miscompares, 0);
    },
  );
}

for (const engine of ["uring", "file"]) {
  nativeTest(
    `reads beyond the end of a truncated image fail and return no zeroes, ${engine}`,
    async () => {
      using folder = new DiskFolder();
      const image = sparseImage(folder.path, "disk.img", DISK_MIB * MIB);
      await using bench = await Bench.start(image, "--engine", engine);
      const { disk, backend } = bench;
      assertClean(received(await disk.load(sweep(DISK_MIB * MIB, 0))), backend.messages);
      const half = DISK_MIB / 2;
      Deno.truncateSync(image, half * MIB);

      const beyond = received(await disk.load({ ...sweep(half * MIB, 1), area: area(half, half) }));
      assertEquals([beyond.errorsByKind, beyond.reads], [{ "read -1": (half * MIB) / 2 ** 15 }, 0]);
      const first = half * SECTORS_PER_MIB;
      await backend.says(new RegExp(`READ at sector ${first} of ${image}: I/O failed: EIO, .*the image ends before`));
      const below = received(await disk.load({ ...sweep(half * MIB, 1), area: area(0, half) }));
      assertClean(below, backend.messages);
      assertEquals(below.verifiedSectors, half * SECTORS_PER_MIB);

      // Writes make the file longer again.
      const anew = { ...sweep(half * MIB, 0), seed: 2, area: area(half, half) };
      assertClean(received(await disk.load(anew)), backend.messages);
      assertClean(received(await disk.load({ ...LOAD, seed: 3, requests: 500 })), backend.messages);
      await bench.end();
      assertEquals((await disk.verify(image)).miscompares, 0);
    },
  );
}

for (const args of [["--engine", "uring"], ["--engine", "file"], ["--cache", "none"]]) {
  nativeTest(`on a device with unreadable sectors only their reads fail, ${args.join(" ")}`, async () => {
    using folder = new DiskFolder();
    const file = sparseImage(folder.path, "medium", DISK_MIB * MIB);
    using undo = new DisposableStack();
    const device = administer("losetup", "--find", "--show", file);
    undo.defer(() => void administer("losetup", "--detach", device));
    const half = DISK_MIB / 2;
    await using bench = await Bench.start(device, ...args);
    const { disk, backend } = bench;
    assertClean(received(await disk.load({ ...sweep(half * MIB, 0), area: area(0, half) })), backend.messages);
    // A loop device on a truncated file reports I/O errors, but only for sectors that are not in its cache.
    Deno.truncateSync(file, half * MIB);
    administer("blockdev", "--flushbufs", device);
    const beyond = received(await disk.load({ ...sweep(half * MIB, 1), area: area(half, half) }));
    assertEquals([beyond.errorsByKind, beyond.reads], [{ "read -1": (half * MIB) / 2 ** 15 }, 0]);
    const first = half * SECTORS_PER_MIB;
    await backend.says(new RegExp(`READ at sector ${first} of ${device}: I/O failed: EIO, the medium failed`));
    const below = received(await disk.load({ ...LOAD, seed: 2, requests: 500, area: area(0, half) }));
    assertClean(below, backend.messages);
    assert(below.verifiedSectors > 0 && below.flushes > 0);
    await bench.end();
  }, missingProgram("losetup", "mount") ?? missingProgram("blockdev", "util-linux"));
}

nativeTest("a guest verifies while other processes keep all cores busy", async () => {
  await using stack = new AsyncDisposableStack();
  for (let core = 0; core < 2 * navigator.hardwareConcurrency; core++) {
    const spinner = new Deno.Command("sh", { args: ["-c", "while :; do :; done"] }).spawn();
    stack.defer(async () => {
      spinner.kill("SIGKILL");
      await spinner.status;
    });
  }
  using folder = new DiskFolder();
  const image = sparseImage(folder.path, "disk.img", DISK_MIB * MIB);
  for (const engine of ["uring", "file"]) {
    await using bench = await Bench.start(image, "--engine", engine);
    const outcome = received(await bench.disk.load({ ...LOAD, requests: 1000 }));
    assertClean(outcome, bench.backend.messages);
    assert(outcome.verifiedSectors > 250, `only ${outcome.verifiedSectors} sectors verified`);
    await bench.end();
    assertEquals((await bench.disk.verify(image)).miscompares, 0);
    Deno.truncateSync(image, 0);
    Deno.truncateSync(image, DISK_MIB * MIB);
  }
});
