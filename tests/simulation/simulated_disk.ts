/**
 * A disk with a write-back cache that a crash loses: what is written is seen by readers at once and survives only from
 * the next flush on; until then each sector may survive with any of its unflushed contents, or none. A failed flush
 * gives up what it should have saved, as Linux does: a later one says nothing of it. It must not know who does I/O.
 */

import { SECTOR_BYTES } from "../../lib/units.ts";
import type { DiskProperties } from "../../lib/storage/disk.ts";
import { describeSector, fillSector, idOfSector, NOBODYS } from "./content.ts";
import type { Decisions } from "./decisions.ts";
import { PRISTINE } from "./history.ts";
import type { Run } from "./run.ts";

/** Sectors behind the end, that nobody may touch. */
const GUARD_SECTORS = 32;
const WORDS = SECTOR_BYTES / 4;

/** What a crash may do with the unflushed contents of the sectors. */
const LOSE_ALL = 0;
const KEEP_ALL = 1;

/** See the file's first lines. */
export class SimulatedDisk {
  readonly properties: DiskProperties;
  readonly #run: Run;
  /** What readers see. */
  readonly #bytes: Uint8Array;
  readonly #words: Int32Array;
  /** What survives for certain. */
  readonly #durable: Uint8Array;
  /** By sector: contents since the last flush, oldest first. */
  #unflushed = new Map<number, Uint8Array[]>();
  #failures = 0;
  /** By sector: contents that a failed flush gave up; they may have got to the medium nevertheless. */
  readonly #givenUp = new Map<number, Uint8Array[]>();

  constructor(readonly name: string, properties: DiskProperties, run: Run) {
    this.properties = properties;
    this.#run = run;
    const sectors = properties.sectors + GUARD_SECTORS;
    this.#bytes = new Uint8Array(sectors * SECTOR_BYTES);
    this.#words = new Int32Array(this.#bytes.buffer);
    for (let sector = 0; sector < sectors; sector++) fillSector(this.#words, sector * WORDS, sector, PRISTINE);
    this.#durable = this.#bytes.slice();
  }

  /** Copies out of the disk. */
  read(offsetBytes: number, into: Uint8Array): void {
    into.set(this.#bytes.subarray(offsetBytes, offsetBytes + into.length));
  }

  /** Writes whole sectors. */
  write(offsetBytes: number, from: Uint8Array): void {
    this.#run.require(offsetBytes % SECTOR_BYTES === 0, `a write to byte ${offsetBytes} of ${this.name}`);
    this.#run.require(from.length % SECTOR_BYTES === 0, `a write of ${from.length} bytes to ${this.name}`);
    this.#bytes.set(from, offsetBytes);
    for (let at = 0; at < from.length; at += SECTOR_BYTES) {
      const sector = (offsetBytes + at) / SECTOR_BYTES;
      const contents = this.#unflushed.get(sector) ?? [];
      contents.push(from.slice(at, at + SECTOR_BYTES));
      this.#unflushed.set(sector, contents);
    }
  }

  /** Makes all that was written durable, but for what a failed flush gave up. */
  flush(): void {
    for (const [sector, contents] of this.#unflushed) {
      this.#durable.set(contents.at(-1)!, sector * SECTOR_BYTES);
      this.#givenUp.delete(sector);
    }
    this.#unflushed.clear();
  }

  /** How many write-backs have failed: each descriptor is told of them at its next flush, once. */
  get failures(): number {
    return this.#failures;
  }

  /** A write-back that fails: what it was for is forgotten. */
  failFlush(): void {
    this.#failures++;
    for (const [sector, contents] of this.#unflushed) {
      this.#givenUp.set(sector, [...this.#givenUp.get(sector) ?? [], ...contents]);
    }
    this.#unflushed.clear();
  }

  /** The power fails: of each sector some content survives, not older than its last flush. */
  crash(decisions: Decisions): void {
    const how = decisions.below(3);
    for (const lost of [this.#givenUp, this.#unflushed]) {
      for (const [sector, contents] of lost) {
        const survivor = how === LOSE_ALL
          ? 0
          : how === KEEP_ALL
          ? contents.length
          : decisions.below(contents.length + 1);
        if (survivor > 0) this.#durable.set(contents[survivor - 1]!, sector * SECTOR_BYTES);
      }
      lost.clear();
    }
    this.#bytes.set(this.#durable);
  }

  /** Which write readers see in a sector; fails if it is none. */
  idOf(sector: number): number {
    const id = idOfSector(this.#words, sector * WORDS, sector);
    if (id === NOBODYS) {
      this.#run.fail(`${this.name}: sector ${sector} holds ${describeSector(this.#words, sector * WORDS)}`);
    }
    return id;
  }

  /** Fails if anything behind the end was written. */
  checkGuard(): void {
    const { sectors } = this.properties;
    for (let sector = sectors; sector < sectors + GUARD_SECTORS; sector++) {
      this.#run.require(this.idOf(sector) === PRISTINE, `${this.name}: sector ${sector} is beyond the end and written`);
    }
  }
}
