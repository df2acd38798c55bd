/**
 * What the named cases of image formats share: images that qemu-img makes, a disk that is opened as the backend opens it,
 * and a raw twin that gets the same writes. No test is in here.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import type { DiskRequest } from "../../../lib/storage/disk.ts";
import type { EngineDisk, EngineRig } from "../qemu/engine_rig.ts";
import { qemuImg } from "../qemu_img.ts";

export const KIB = 2 ** 10;
export const MIB = 2 ** 20;
export const GIB = 2 ** 30;
export const TIB = 2 ** 40;

/** One case: which of QEMU's tests in tests/qemu-iotests it follows, and what it shows. */
export interface Case {
  readonly iotest: string;
  readonly shows: string;
  run(stage: Stage): Promise<void>;
}

let written = 0;

/** Data that differs from all other data, sector by sector. */
export function pattern(lengthBytes: number): Uint8Array {
  const words = new Uint32Array(lengthBytes / 4);
  const start = ++written * 2654435761;
  for (let i = 0; i < words.length; i++) words[i] = start + i * 40503;
  return new Uint8Array(words.buffer);
}

/** The folder of one case, and what can be done there. */
export class Stage implements Disposable {
  readonly folder: string;
  readonly #rig: EngineRig;

  constructor(rig: EngineRig) {
    this.#rig = rig;
    this.folder = Deno.makeTempDirSync({ dir: rig.folder, prefix: "case-" });
  }

  path(name: string): string {
    return `${this.folder}/${name}`;
  }

  /** Makes an image; its path. `options`: for `-o`; `more`: further arguments. */
  async create(format: string, size: number, options = "", ...more: string[]): Promise<string> {
    const path = this.path(`${written++}.${format}`);
    const given = options === "" ? [] : ["-o", options.replaceAll("DIR", this.folder)];
    await qemuImg("create", "-q", "-f", format, ...given, ...more, path, `${size}`);
    return path;
  }

  /** Makes an overlay of the pair's image, and carries the twin on. */
  async overlay(base: Pair, options = "", size = base.sizeBytes): Promise<Pair> {
    const path = await this.create("qcow2", size, options, "-b", base.path, "-F", base.format);
    const twin = this.path(`${written++}.twin`);
    Deno.copyFileSync(base.twin, twin);
    using file = Deno.openSync(twin, { write: true });
    file.truncateSync(size);
    return new Pair(this, "qcow2", path, size, twin);
  }

  /** Makes an image and its twin. */
  async pair(format: string, size: number, options = ""): Promise<Pair> {
    return this.pairOf(format, await this.create(format, size, options), size);
  }

  /** The twin of an image without data. */
  pairOf(format: string, path: string, size: number): Pair {
    const twin = this.path(`${written++}.twin`);
    using file = Deno.openSync(twin, { write: true, create: true });
    file.truncateSync(size);
    return new Pair(this, format, path, size, twin);
  }

  open(name: string, more: Partial<DiskRequest> = {}): Promise<EngineDisk> {
    return this.#rig.open(name, more);
  }

  /** The image is refused, and the error says so. */
  async refuses(name: string, why: RegExp, more: Partial<DiskRequest> = {}): Promise<void> {
    const error = await assertRejects(async () => {
      await using _disk = await this.open(name, more);
    }, XenblkError);
    assertMatch(error.message, why);
  }

  /** How often {@linkcode killDaemon} was called. */
  deaths = 0;

  async killDaemon(): Promise<void> {
    this.deaths++;
    await this.#rig.killDaemon();
  }

  get warnings(): readonly string[] {
    return this.#rig.warnings;
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.folder, { recursive: true });
  }
}

/** An image and its raw twin. */
export class Pair {
  constructor(
    readonly stage: Stage,
    readonly format: string,
    readonly path: string,
    readonly sizeBytes: number,
    readonly twin: string,
  ) {}

  /** Opens the image, does something with it, closes it; then it is sound and holds what its twin holds. */
  async use(act: (disk: PairedDisk) => Promise<void> | void, name = `${this.format}:${this.path}`): Promise<void> {
    const before = this.stage.deaths;
    {
      await using disk = await this.stage.open(name);
      await act(new PairedDisk(disk, this.twin));
    }
    await this.verify(this.stage.deaths > before);
  }

  /** `leaks`: a daemon was killed, so there may be clusters that nothing refers to. */
  async verify(leaks = false): Promise<void> {
    await assertSound(this.format, this.path, leaks);
    await qemuImg("compare", "-q", "-f", "raw", "-F", this.format, this.twin, this.path);
  }

  /** Bytes that the image takes on its file system. */
  get usedBytes(): number {
    return Deno.statSync(this.path).blocks! * 512;
  }
}

/** An open disk; what it is given its twin gets too. */
export class PairedDisk {
  constructor(readonly disk: EngineDisk, readonly twin: string) {}

  async write(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.put(offsetBytes, pattern(lengthBytes));
  }

  async put(offsetBytes: number, data: Uint8Array): Promise<void> {
    await this.disk.write(offsetBytes, data);
    this.note(offsetBytes, data);
  }

  async zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.put(offsetBytes, new Uint8Array(lengthBytes));
  }

  /** Writes of these lengths, one behind the other, all in flight at once. */
  async writeAtOnce(offsets: readonly number[], lengthBytes: number): Promise<void> {
    const data = offsets.map(() => pattern(lengthBytes));
    data.forEach((bytes, tag) => {
      this.disk.buffer(tag).set(bytes);
      this.disk.startWrite(tag, offsets[tag]!, lengthBytes);
      this.note(offsets[tag]!, bytes);
    });
    while (this.disk.inFlight > 0) await this.disk.reap((tag, result) => assertEquals(result, 0, `write ${tag}`));
  }

  /** Each sector of the range then has its old bytes or zeroes, which the twin gets too. */
  async discard(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.disk.discard(offsetBytes, lengthBytes);
    const left = await this.disk.read(offsetBytes, lengthBytes);
    const before = this.#twinBytes(offsetBytes, lengthBytes);
    for (let at = 0; at < lengthBytes; at += 512) {
      const sector = left.subarray(at, at + 512);
      const isRight = isZero(sector) || isSame(sector, before.subarray(at, at + 512));
      assert(isRight, `byte ${offsetBytes + at} is neither old nor zero`);
    }
    this.note(offsetBytes, left);
  }

  /** Reads what the twin holds. */
  async check(offsetBytes: number, lengthBytes: number): Promise<void> {
    const data = await this.disk.read(offsetBytes, lengthBytes);
    assert(isSame(data, this.#twinBytes(offsetBytes, lengthBytes)), `${lengthBytes} bytes at ${offsetBytes} differ`);
  }

  /** Whether a range reads as zeroes. */
  async isZero(offsetBytes: number, lengthBytes: number): Promise<boolean> {
    return isZero(await this.disk.read(offsetBytes, lengthBytes));
  }

  /** Only the twin gets it. */
  note(offsetBytes: number, data: Uint8Array): void {
    using file = Deno.openSync(this.twin, { write: true });
    file.seekSync(offsetBytes, Deno.SeekMode.Start);
    file.writeSync(data);
  }

  #twinBytes(offsetBytes: number, lengthBytes: number): Uint8Array {
    using file = Deno.openSync(this.twin);
    file.seekSync(offsetBytes, Deno.SeekMode.Start);
    const bytes = new Uint8Array(lengthBytes);
    file.readSync(bytes);
    return bytes;
  }
}

/** Of whole sectors. */
export function isSame(one: Uint8Array, other: Uint8Array): boolean {
  const words = wordsOf(other);
  return one.length === other.length && wordsOf(one).every((word, i) => word === words[i]);
}

/** Of whole sectors. */
export function isZero(bytes: Uint8Array): boolean {
  return wordsOf(bytes).every((word) => word === 0);
}

function wordsOf({ buffer, byteOffset, byteLength }: Uint8Array): Uint32Array {
  return new Uint32Array(buffer, byteOffset, byteLength / 4);
}

/** Formats that qemu-img can check. */
const CHECKED = new Set(["qcow2", "qed", "vdi", "vhdx", "vmdk", "parallels"]);

/** qemu-img finds nothing wrong with it, but for leaks where there may be some. */
export async function assertSound(format: string, path: string, leaks = false): Promise<void> {
  if (!CHECKED.has(format)) return;
  const { code, stdout, stderr } = await new Deno.Command("qemu-img", { args: ["check", "-f", format, path] }).output();
  const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert(code === 0 || (leaks && code === 3), said);
}

/** Changes bytes of a file. */
export function poke(path: string, offsetBytes: number, bytes: readonly number[]): void {
  using file = Deno.openSync(path, { write: true });
  file.seekSync(offsetBytes, Deno.SeekMode.Start);
  file.writeSync(Uint8Array.from(bytes));
}

/** A number in so many bytes, highest first; or lowest first. */
export function bytesOf(value: bigint, count: number, littleEndian = false): number[] {
  const bytes = Array.from({ length: count }, (_, i) => Number((value >> BigInt(8 * (count - 1 - i))) & 0xFFn));
  return littleEndian ? bytes.reverse() : bytes;
}
