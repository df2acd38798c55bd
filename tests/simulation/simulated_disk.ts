/**
 * A disk with a volatile write-back cache. Readers see writes at once; a write certainly survives a power failure only
 * after the next flush. Until then each sector may survive with any of its unflushed contents, or none. A failed flush
 * drops what it should have written, as Linux does, and a later flush does not report it again.
 */

import { SECTOR_BYTES } from "../../lib/units.ts";
import type { DiskProperties } from "../../lib/storage/disk.ts";
import { describeSector, fillSector, idOfSector, UNKNOWN_CONTENT } from "./content.ts";
import type { Decisions } from "./decisions.ts";
import { PRISTINE } from "./history.ts";
import type { Run } from "./run.ts";

/** Sectors after the end, which must not be touched. */
const GUARD_SECTORS = 32;
const WORDS = SECTOR_BYTES / 4;

/** What a power failure may do with all unflushed contents; otherwise it chooses for each sector. */
const LOSE_ALL = 0;
const KEEP_ALL = 1;

/** The disk. */
export class SimulatedDisk {
  readonly properties: DiskProperties;
  readonly #run: Run;
  /** What readers see. */
  readonly #bytes: Uint8Array;
  readonly #words: Int32Array;
  /** What certainly survives. */
  readonly #durable: Uint8Array;
  /** By sector: the contents since the last flush, oldest first. */
  #unflushed = new Map<number, Uint8Array[]>();
  #failures = 0;
  /** By sector: contents that a failed flush dropped; some may have reached the medium. */
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

  /** Reads bytes. */
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

  /** Makes all writes durable, except those that a failed flush dropped. */
  flush(): void {
    for (const [sector, contents] of this.#unflushed) {
      this.#durable.set(contents.at(-1)!, sector * SECTOR_BYTES);
      this.#givenUp.delete(sector);
    }
    this.#unflushed.clear();
  }

  /** Number of failed flushes: each open file reports them once, at its next flush. */
  get failures(): number {
    return this.#failures;
  }

  /** A flush fails and drops the unflushed writes. */
  failFlush(): void {
    this.#failures++;
    for (const [sector, contents] of this.#unflushed) {
      this.#givenUp.set(sector, [...this.#givenUp.get(sector) ?? [], ...contents]);
    }
    this.#unflushed.clear();
  }

  /** The power fails: of each sector some content survives that is not older than its last flush. */
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

  /** The write that a sector holds; fails if it holds the data of no single write. */
  idOf(sector: number): number {
    const id = idOfSector(this.#words, sector * WORDS, sector);
    if (id === UNKNOWN_CONTENT) {
      this.#run.fail(`${this.name}: sector ${sector} holds ${describeSector(this.#words, sector * WORDS)}`);
    }
    return id;
  }

  /** Fails if a sector after the end was written. */
  checkGuard(): void {
    const { sectors } = this.properties;
    for (let sector = sectors; sector < sectors + GUARD_SECTORS; sector++) {
      this.#run.require(this.idOf(sector) === PRISTINE, `${this.name}: sector ${sector} is beyond the end and written`);
    }
  }
}
