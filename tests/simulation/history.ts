/**
 * What a disk may hold: for each sector all writes that were requested, with the times of request and response. From
 * that follows which contents a read may return, and which may remain after a power failure. Writes may overlap one
 * another and reads.
 */

import { ZEROES } from "./content.ts";

/** A write as its guest sees it. Times are event numbers of the run. */
export interface WriteRecord {
  readonly id: number;
  readonly first: number;
  readonly count: number;
  /** It is a discard: the zeroes that it leaves do not identify it. */
  readonly zeroes: boolean;
  readonly published: number;
  /** When it was answered, or can have no effect any more; Infinity: not yet. */
  ended: number;
  /** It was answered OKAY. */
  okay: boolean;
  /** It must survive a power failure: a flush or barrier was answered OKAY after it. */
  durable: boolean;
  /** A failed flush may have lost it: it is never durable. */
  forgiven: boolean;
}

/** A read in flight. */
export interface ReadRecord {
  readonly published: number;
}

/** A write in one sector. */
interface Version {
  readonly write: WriteRecord;
  /** The first time a read returned it; Infinity: none has. */
  seen: number;
}

/** The id of the initial contents. */
export const PRISTINE = 0;
/** From so many versions of a sector on, those that nothing can return any more are dropped. */
const MANY_VERSIONS = 12;

/** The history of one disk. */
export class History {
  readonly #sectors: Version[][];
  readonly #writes = new Map<number, WriteRecord>();
  /** Oldest first. */
  readonly #reading = new Set<ReadRecord>();
  #unpromised = new Set<WriteRecord>();
  #lastId = PRISTINE;

  constructor(sectors: number) {
    const pristine = settled(PRISTINE, 0);
    this.#sectors = Array.from({ length: sectors }, () => [{ write: pristine, seen: 0 }]);
  }

  /** A write of these sectors is about to be published. */
  beginWrite(first: number, count: number, now: number, zeroes = false): WriteRecord {
    const id = ++this.#lastId;
    const write: WriteRecord = { ...settled(id, Infinity), first, count, zeroes, published: now };
    write.okay = write.durable = false;
    this.#writes.set(id, write);
    for (let sector = first; sector < first + count; sector++) this.#add(sector, { write, seen: Infinity });
    return write;
  }

  /** It was answered, or, if not okay, can have no effect any more. */
  endWrite(write: WriteRecord, okay: boolean, now: number): void {
    if (write.ended !== Infinity) return;
    write.ended = now;
    write.okay = okay;
    if (okay) this.#unpromised.add(write);
  }

  /** An id that no write has. */
  foreignId(): number {
    return ++this.#lastId;
  }

  /** The write with this id, if any. */
  write(id: number): WriteRecord | undefined {
    return this.#writes.get(id);
  }

  /** A read is about to be published; until {@linkcode endRead} all contents that it may return are kept. */
  beginRead(now: number): ReadRecord {
    const read = { published: now };
    this.#reading.add(read);
    return read;
  }

  /** The read has ended. */
  endRead(read: ReadRecord): void {
    this.#reading.delete(read);
  }

  /**
   * A read between the two times returned this write for the sector. Returns why that is wrong; or undefined, and
   * remembers that the write was seen.
   */
  observe(sector: number, id: number, from: number, to: number): string | undefined {
    const versions = this.#sectors[sector]!;
    const matching = versions.filter(({ write }) => isContent(write, id) && write.published <= to);
    const gone = (version: Version): Version | undefined =>
      overwriting(versions, version, (other) => doneBy(other) <= from);
    const possible = matching.filter((version) => gone(version) === undefined);
    const [version] = possible;
    if (version === undefined) {
      const newer = matching.map(gone).at(-1);
      return newer === undefined
        ? `${contentName(id)} was never asked for`
        : `${contentName(id)} was overwritten by write ${newer.write.id} before`;
    }
    if (possible.length === 1) version.seen = Math.min(version.seen, to);
    return undefined;
  }

  /** A flush requested at that time was answered OKAY: writes answered OKAY before it, and not forgiven, survive. */
  flushed(asked: number): void {
    for (const write of this.#unpromised) if (write.ended <= asked) this.promise(write);
  }

  /** This write must survive from now on. */
  promise(write: WriteRecord): void {
    this.#unpromised.delete(write);
    if (!write.forgiven) write.durable = true;
  }

  /** A flush failed without the backend knowing: writes that were answered before need not survive. */
  forgive(): void {
    for (const write of this.#unpromised) write.forgiven = true;
    this.#unpromised.clear();
  }

  /**
   * After a power failure: `idOf` returns what each sector holds. Returns what is wrong; or undefined, and takes the
   * sectors' present contents as the only ones.
   */
  crashed(idOf: (sector: number) => number, now: number): string | undefined {
    for (let sector = 0; sector < this.#sectors.length; sector++) {
      const versions = this.#sectors[sector]!;
      const id = idOf(sector);
      const matching = versions.filter(({ write }) => isContent(write, id));
      if (matching.length === 0) return `sector ${sector} holds ${contentName(id)}, which was never asked for`;
      const lost = matching.map((version) => overwriting(versions, version, (other) => other.write.durable));
      if (lost.every((other) => other !== undefined)) {
        return `sector ${sector} holds ${contentName(id)}, but write ${lost[0]!.write.id} was answered and flushed`;
      }
      this.#sectors[sector] = [{ write: settled(id, now), seen: now }];
    }
    this.#unpromised.clear();
    this.#reading.clear();
    return undefined;
  }

  /** Checks all sectors of a disk that has nothing in flight. Returns what is wrong, or undefined. */
  inspect(idOf: (sector: number) => number, now: number): string | undefined {
    for (let sector = 0; sector < this.#sectors.length; sector++) {
      const why = this.observe(sector, idOf(sector), now, now);
      if (why !== undefined) return `sector ${sector}: ${why}`;
    }
    return undefined;
  }

  #add(sector: number, version: Version): void {
    let versions = this.#sectors[sector]!;
    if (versions.length >= MANY_VERSIONS) versions = this.#sectors[sector] = this.#pruned(versions);
    versions.push(version);
  }

  /** Drops versions that neither a read nor a power failure can return. */
  #pruned(versions: readonly Version[]): Version[] {
    const [oldest] = this.#reading;
    const from = oldest?.published ?? Infinity;
    return versions.filter((version) =>
      overwriting(versions, version, (other) => other.write.durable && other.write.ended <= from) === undefined
    );
  }
}

/** A write that was requested after the version ended and meets the condition: it has replaced the version. */
function overwriting(
  versions: readonly Version[],
  version: Version,
  counts: (other: Version) => boolean,
): Version | undefined {
  return versions.find((other) => other.write.published > version.write.ended && counts(other));
}

/** When it has certainly taken effect. */
function doneBy({ write, seen }: Version): number {
  return write.okay ? Math.min(write.ended, seen) : seen;
}

/** A write that is over and durable. */
function settled(id: number, now: number): WriteRecord {
  const zeroes = id === ZEROES;
  return { id, first: 0, count: 0, zeroes, published: -1, ended: now, okay: true, durable: true, forgiven: false };
}

/** Whether the write leaves this content. */
function isContent(write: WriteRecord, id: number): boolean {
  return id === ZEROES ? write.zeroes : !write.zeroes && write.id === id;
}

function contentName(id: number): string {
  return id === ZEROES ? "zeroes" : `write ${id}`;
}
