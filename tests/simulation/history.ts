/**
 * What a disk may hold: for each sector the writes that were ever asked for, with when each was asked for and over, and
 * from that which of them a read may see, and which a crash may leave. Writes may overlap one another and reads. It
 * must not know how anything is carried out.
 */

import { ZEROES } from "./content.ts";

/** A write as its guest sees it. Times are a run's event numbers. */
export interface WriteRecord {
  readonly id: number;
  readonly first: number;
  readonly count: number;
  /** It is a discard: what it leaves tells nobody which one it was. */
  readonly zeroes: boolean;
  readonly published: number;
  /** When it was answered, or could no longer take effect; Infinity until then. */
  ended: number;
  /** It was answered OKAY. */
  okay: boolean;
  /** Somebody was told that it survives a crash. */
  durable: boolean;
  /** A failed flush took away what could be promised of it. */
  forgiven: boolean;
}

/** A read that is under way. */
export interface ReadRecord {
  readonly published: number;
}

/** A write in one sector. */
interface Version {
  readonly write: WriteRecord;
  /** A read saw it by then; Infinity: none did. */
  seen: number;
}

/** The write that stands for what a disk held at first. */
export const PRISTINE = 0;
/** A sector's versions are looked through for ones that nobody can see any more when there are so many. */
const MANY_VERSIONS = 12;

/** See the file's first lines. */
export class History {
  readonly #sectors: Version[][];
  readonly #writes = new Map<number, WriteRecord>();
  /** In the order of their publication. */
  readonly #reading = new Set<ReadRecord>();
  #unpromised = new Set<WriteRecord>();
  #lastId = PRISTINE;

  constructor(sectors: number) {
    const pristine = settled(PRISTINE, 0);
    this.#sectors = Array.from({ length: sectors }, () => [{ write: pristine, seen: 0 }]);
  }

  /** A write of these sectors is being published. */
  beginWrite(first: number, count: number, now: number, zeroes = false): WriteRecord {
    const id = ++this.#lastId;
    const write: WriteRecord = { ...settled(id, Infinity), first, count, zeroes, published: now };
    write.okay = write.durable = false;
    this.#writes.set(id, write);
    for (let sector = first; sector < first + count; sector++) this.#add(sector, { write, seen: Infinity });
    return write;
  }

  /** It was answered, or (not okay) can no longer take effect. */
  endWrite(write: WriteRecord, okay: boolean, now: number): void {
    if (write.ended !== Infinity) return;
    write.ended = now;
    write.okay = okay;
    if (okay) this.#unpromised.add(write);
  }

  /** A number that no write of the history has. */
  foreignId(): number {
    return ++this.#lastId;
  }

  /** The write of this number, if there is one. */
  write(id: number): WriteRecord | undefined {
    return this.#writes.get(id);
  }

  /** A read is being published; until {@linkcode endRead} what it may see is remembered. */
  beginRead(now: number): ReadRecord {
    const read = { published: now };
    this.#reading.add(read);
    return read;
  }

  /** The read is over. */
  endRead(read: ReadRecord): void {
    this.#reading.delete(read);
  }

  /**
   * A read between the two times saw this write in the sector. Returns why that cannot be, or undefined and remembers
   * that it was seen.
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

  /**
   * A flush that was asked for then was answered OKAY: what was answered OKAY before it, and not forgiven, survives.
   */
  flushed(asked: number): void {
    for (const write of this.#unpromised) if (write.ended <= asked) this.promise(write);
  }

  /** This write survives, somebody was told. */
  promise(write: WriteRecord): void {
    this.#unpromised.delete(write);
    if (!write.forgiven) write.durable = true;
  }

  /** A flush failed and nobody is left to say so: nothing can be promised of what was answered before. */
  forgive(): void {
    for (const write of this.#unpromised) write.forgiven = true;
    this.#unpromised.clear();
  }

  /**
   * After a crash: `idOf` tells what each sector holds. Returns what must not be, or undefined, and then that is all
   * there is to be seen from now on.
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

  /** As {@linkcode crashed}, for a look at a disk that nobody uses at the moment: what may each sector hold? */
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

  /** Without what neither a read nor a crash can bring back. */
  #pruned(versions: readonly Version[]): Version[] {
    const [oldest] = this.#reading;
    const from = oldest?.published ?? Infinity;
    return versions.filter((version) =>
      overwriting(versions, version, (other) => other.write.durable && other.write.ended <= from) === undefined
    );
  }
}

/** A write that wholly followed the version and fulfils the condition, so that the version is gone. */
function overwriting(
  versions: readonly Version[],
  version: Version,
  counts: (other: Version) => boolean,
): Version | undefined {
  return versions.find((other) => other.write.published > version.write.ended && counts(other));
}

/** When it had taken effect, as far as anybody knows. */
function doneBy({ write, seen }: Version): number {
  return write.okay ? Math.min(write.ended, seen) : seen;
}

/** A write that everybody knows of. */
function settled(id: number, now: number): WriteRecord {
  const zeroes = id === ZEROES;
  return { id, first: 0, count: 0, zeroes, published: -1, ended: now, okay: true, durable: true, forgiven: false };
}

/** Whether a sector with that content may have got it from the write. */
function isContent(write: WriteRecord, id: number): boolean {
  return id === ZEROES ? write.zeroes : !write.zeroes && write.id === id;
}

function contentName(id: number): string {
  return id === ZEROES ? "zeroes" : `write ${id}`;
}
