/**
 * A simulated disk as an open file, for the backend's own code that carries out operations on files. Calls may be
 * short, interrupted, or fail.
 */

import { SECTOR_BYTES } from "../../lib/units.ts";
import { EIO } from "../../lib/errno.ts";
import type { BlockFile } from "../../lib/storage/engine/executor.ts";
import type { Run } from "./run.ts";
import type { SimulatedDisk } from "./simulated_disk.ts";

/** An open image. */
export class SimulatedFile implements BlockFile {
  readonly #disk: SimulatedDisk;
  readonly #run: Run;
  #position = 0;
  #failuresTold: number;

  constructor(disk: SimulatedDisk, run: Run) {
    this.#disk = disk;
    this.#run = run;
    this.#failuresTold = disk.failures;
  }

  /** Name of the disk. */
  get name(): string {
    return this.#disk.name;
  }

  seekSync(offsetBytes: number | bigint): number {
    return this.#position = Number(offsetBytes);
  }

  readSync(into: Uint8Array): number {
    const { faults } = this.#run;
    if (faults.strikes("interrupted call")) throw systemError("EINTR");
    if (faults.strikes("read error")) throw systemError("EIO");
    this.#checkRange("read", into.length);
    const part = faults.strikes("short read") ? into.subarray(0, this.#run.decisions.between(1, into.length)) : into;
    this.#disk.read(this.#position, part);
    this.#position += part.length;
    return part.length;
  }

  writeSync(from: Uint8Array): number {
    const { faults, decisions } = this.#run;
    if (faults.strikes("interrupted call")) throw systemError("EINTR");
    if (faults.strikes("write error")) throw systemError(decisions.pick(["EIO", "ENOSPC"]));
    this.#checkRange("write", from.length);
    // Whole sectors, so that a later error leaves no sector torn.
    const part = faults.strikes("short write")
      ? from.subarray(0, decisions.between(1, from.length / SECTOR_BYTES) * SECTOR_BYTES)
      : from;
    this.#disk.write(this.#position, part);
    this.#position += part.length;
    return part.length;
  }

  syncDataSync(): void {
    if (this.#run.faults.strikes("flush error")) this.#disk.failFlush();
    else this.#disk.flush();
    if (this.#disk.failures === this.#failuresTold) return;
    this.#failuresTold = this.#disk.failures;
    throw systemError("EIO");
  }

  /** Discards, as engines that support it do. Returns 0 or a negative errno. */
  discard(offsetBytes: number, lengthBytes: number): number {
    this.#position = offsetBytes;
    this.#checkRange("discard", lengthBytes);
    if (this.#run.faults.strikes("write error")) return -EIO;
    this.#disk.write(offsetBytes, new Uint8Array(lengthBytes));
    return 0;
  }

  close(): void {}

  #checkRange(what: string, lengthBytes: number): void {
    const end = this.#disk.properties.sectors * SECTOR_BYTES;
    if (this.#position < 0 || this.#position + lengthBytes > end) {
      this.#run.fail(`a ${what} of ${lengthBytes} bytes at ${this.#position} of ${this.#disk.name}, which has ${end}`);
    }
  }
}

/** An error as Deno throws it. */
function systemError(code: string): Error {
  return Object.assign(new Error(`simulated ${code}`), { code });
}
