/**
 * A simulated machine: one SharedArrayBuffer that holds page frames, the grant tables and event channels of all its
 * domains, and the words that threads sleep on. This file lays the buffer out, hands out frames and guards the tables
 * with one lock; what the tables mean is written in grants.ts, events.ts and park.ts.
 */

import { PAGE_BYTES } from "../units.ts";

/** How large a simulated machine is. */
export interface MachineOptions {
  /** Memory for pages that are shared, and for buffers. It costs nothing until it is used. Default 256 MiB. */
  readonly memoryBytes?: number;
  /** Domains 0 to `domains - 1` exist. Default 8. */
  readonly domains?: number;
  /** Grant references of each domain. Default 16384. */
  readonly grantsPerDomain?: number;
  /** Event-channel ports of each domain. Default 1024. */
  readonly portsPerDomain?: number;
}

const MAGIC = 0x784d6163;

/** Words of the header, indices into {@linkcode Machine.words}. */
const enum Header {
  Magic,
  Lock,
  Domains,
  Grants,
  Ports,
  FirstFrame,
  EndFrame,
  /** Frames from here on were never handed out, so they are still zero. */
  UntouchedFrame,
  /** Where the next search for free frames begins. */
  NextFrame,
  FramesInUse,
  MappedPages,
}

const HEADER_WORDS = PAGE_BYTES / 4;
/** A cache line, so that two threads' words do not share one. */
const LINE_WORDS = 16;
/** Sets of event channels (open handles) and sleeping threads that one machine can have. */
export const SETS = 1024;
const WAKE_WORDS = 1024;

/** Words of a grant table entry. */
const GRANT_WORDS = 4;
/** Words of an event-channel table entry. */
const PORT_WORDS = LINE_WORDS;

/** References below are reserved, as in Xen's version 1 grant tables. */
export const FIRST_GRANT = 8;
/** Port 0 is never valid. */
export const FIRST_PORT = 1;

/** Where the tables begin, in words, and the frames, in bytes. */
function tableLayout(domains: number, grants: number, ports: number): Readonly<Record<TableName, number>> {
  const grantTables = HEADER_WORDS;
  const portTables = grantTables + domains * grants * GRANT_WORDS;
  const channelSets = portTables + domains * ports * PORT_WORDS;
  const wakeWords = channelSets + SETS * LINE_WORDS;
  const frameMap = wakeWords + WAKE_WORDS * LINE_WORDS;
  return { grantTables, portTables, channelSets, wakeWords, frameMap };
}

type TableName = "grantTables" | "portTables" | "channelSets" | "wakeWords" | "frameMap";

/** Makes a machine. Throws RangeError if the buffer cannot be had. */
export function createMachine(options: MachineOptions = {}): SharedArrayBuffer {
  const domains = options.domains ?? 8;
  const grants = options.grantsPerDomain ?? 16384;
  const ports = options.portsPerDomain ?? 1024;
  const frames = Math.ceil((options.memoryBytes ?? 256 * 2 ** 20) / PAGE_BYTES);
  const { frameMap } = tableLayout(domains, grants, ports);
  const firstFrame = Math.ceil((frameMap * 4 + frames) / PAGE_BYTES);
  const machine = new SharedArrayBuffer((firstFrame + frames) * PAGE_BYTES);
  const words = new Int32Array(machine, 0, HEADER_WORDS);
  words[Header.Domains] = domains;
  words[Header.Grants] = grants;
  words[Header.Ports] = ports;
  words[Header.FirstFrame] = firstFrame;
  words[Header.EndFrame] = firstFrame + frames;
  words[Header.UntouchedFrame] = firstFrame;
  words[Header.NextFrame] = firstFrame;
  Atomics.store(words, Header.Magic, MAGIC);
  return machine;
}

/** What of a machine is in use: equal before and after, nothing leaked. */
export interface MachineUsage {
  /** Pages of memory. */
  readonly frames: number;
  /** Pages mapped through grants, counted once for each mapping. */
  readonly mappedPages: number;
  /** Grants that are given, or still mapped. */
  readonly grants: number;
  /** Event channels. */
  readonly ports: number;
  /** Open handles of event channels. */
  readonly channelSets: number;
  /** Words that threads sleep on. */
  readonly wakeWords: number;
}

/** One thread's views of a machine. */
export class Machine {
  /** The whole machine; an address is an index into it. */
  readonly bytes: Uint8Array;
  /** The whole machine as words. */
  readonly words: Int32Array;
  readonly domains: number;
  readonly grantsPerDomain: number;
  readonly portsPerDomain: number;
  readonly firstFrame: number;
  readonly endFrame: number;

  readonly #tables: Readonly<Record<TableName, number>>;
  readonly #frameMap: Uint8Array;
  readonly #wakeViews: (Int32Array | undefined)[] = [];

  /** Throws TypeError if the buffer is no machine. */
  constructor(readonly buffer: SharedArrayBuffer) {
    const header = buffer.byteLength < PAGE_BYTES ? undefined : new Int32Array(buffer, 0, HEADER_WORDS);
    if (header === undefined || header[Header.Magic] !== MAGIC) throw new TypeError("not a simulated machine");
    this.bytes = new Uint8Array(buffer);
    this.words = new Int32Array(buffer);
    this.domains = header[Header.Domains]!;
    this.grantsPerDomain = header[Header.Grants]!;
    this.portsPerDomain = header[Header.Ports]!;
    this.firstFrame = header[Header.FirstFrame]!;
    this.endFrame = header[Header.EndFrame]!;
    this.#tables = tableLayout(this.domains, this.grantsPerDomain, this.portsPerDomain);
    this.#frameMap = new Uint8Array(buffer, this.#tables.frameMap * 4, this.endFrame - this.firstFrame);
  }

  /** Runs `body` while no other thread does, for what changes the tables. Not reentrant. */
  exclusively<T>(body: () => T): T {
    this.#lock();
    try {
      return body();
    } finally {
      // 2 means that a thread sleeps on the lock.
      if (Atomics.exchange(this.words, Header.Lock, 0) === 2) Atomics.notify(this.words, Header.Lock, 1);
    }
  }

  #lock(): void {
    let before = Atomics.compareExchange(this.words, Header.Lock, 0, 1);
    while (before !== 0) {
      if (before === 2 || Atomics.compareExchange(this.words, Header.Lock, 1, 2) !== 0) {
        Atomics.wait(this.words, Header.Lock, 2);
      }
      before = Atomics.compareExchange(this.words, Header.Lock, 0, 2);
    }
  }

  /** Word index of a grant table entry. */
  grantEntry(domain: number, ref: number): number {
    return this.#tables.grantTables + (domain * this.grantsPerDomain + ref) * GRANT_WORDS;
  }

  /** Word index of an event-channel table entry. */
  portEntry(domain: number, port: number): number {
    return this.#tables.portTables + (domain * this.portsPerDomain + port) * PORT_WORDS;
  }

  /** Word index of a set of event channels; see {@linkcode takeSet}. */
  setEntry(set: number): number {
    return this.#tables.channelSets + set * LINE_WORDS;
  }

  /** The word that a thread sleeps on, as a view of that one word. */
  wakeWord(index: number): Int32Array {
    const byteOffset = (this.#tables.wakeWords + index * LINE_WORDS) * 4;
    return this.#wakeViews[index] ??= new Int32Array(this.buffer, byteOffset, 1);
  }

  /** Reserves a set of event channels, zeroed but for the mark of its use (word 0). Throws RangeError if none is left. */
  takeSet(): number {
    return this.#takeLine(this.#tables.channelSets, SETS, 0, "set of event channels");
  }

  /** Gives a set back. */
  freeSet(set: number): void {
    Atomics.store(this.words, this.setEntry(set), 0);
  }

  /** Reserves a word to sleep on, zeroed. Throws RangeError if none is left. */
  takeWakeWord(): number {
    return this.#takeLine(this.#tables.wakeWords, WAKE_WORDS, 1, "wake word");
  }

  /** Gives a wake word back. */
  freeWakeWord(index: number): void {
    Atomics.store(this.words, this.#tables.wakeWords + index * LINE_WORDS + 1, 0);
  }

  /** Finds a line whose word at `mark` is 0, clears the line and marks it. */
  #takeLine(table: number, count: number, mark: number, what: string): number {
    return this.exclusively(() => {
      for (let i = 0; i < count; i++) {
        const entry = table + i * LINE_WORDS;
        if (this.words[entry + mark] !== 0) continue;
        this.words.fill(0, entry, entry + LINE_WORDS);
        Atomics.store(this.words, entry + mark, 1);
        return i;
      }
      throw new RangeError(`the simulated machine has no ${what} left`);
    });
  }

  /** Takes contiguous zeroed frames and returns the first one's number. Throws RangeError if there are not enough. */
  takeFrames(count: number): number {
    return this.exclusively(() => {
      const first = this.#findFrames(count);
      this.#frameMap.fill(1, first - this.firstFrame, first - this.firstFrame + count);
      const untouched = this.words[Header.UntouchedFrame]!;
      if (first < untouched) {
        const end = Math.min(first + count, untouched);
        this.bytes.fill(0, first * PAGE_BYTES, end * PAGE_BYTES);
      }
      this.words[Header.UntouchedFrame] = Math.max(untouched, first + count);
      this.words[Header.NextFrame] = first + count;
      this.words[Header.FramesInUse]! += count;
      return first;
    });
  }

  /** Gives frames back; they need not be all that were taken together. */
  freeFrames(first: number, count: number): void {
    this.exclusively(() => this.freeFramesLocked(first, count));
  }

  /** As {@linkcode freeFrames}, inside {@linkcode exclusively}. */
  freeFramesLocked(first: number, count: number): void {
    this.#frameMap.fill(0, first - this.firstFrame, first - this.firstFrame + count);
    this.words[Header.FramesInUse]! -= count;
  }

  #findFrames(count: number): number {
    const next = this.words[Header.NextFrame]! - this.firstFrame;
    const found = this.#searchFrames(next, this.#frameMap.length, count) ??
      this.#searchFrames(0, Math.min(next + count, this.#frameMap.length), count);
    if (found === undefined || count < 1) {
      throw new RangeError(`the simulated machine has not ${count} contiguous free pages`);
    }
    return this.firstFrame + found;
  }

  #searchFrames(from: number, to: number, count: number): number | undefined {
    let free = 0;
    for (let i = from; i < to; i++) {
      free = this.#frameMap[i] === 0 ? free + 1 : 0;
      if (free === count) return i - count + 1;
    }
    return undefined;
  }

  /** Counts pages that were mapped through grants, or unmapped if negative. */
  countMapped(pages: number): void {
    Atomics.add(this.words, Header.MappedPages, pages);
  }

  /** What is in use now. */
  usage(): MachineUsage {
    const { grantTables, portTables, channelSets, wakeWords, frameMap } = this.#tables;
    const used = (begin: number, end: number, stride: number, mark: number): number => {
      let count = 0;
      for (let entry = begin; entry < end; entry += stride) if (this.words[entry + mark] !== 0) count++;
      return count;
    };
    return {
      frames: Atomics.load(this.words, Header.FramesInUse),
      mappedPages: Atomics.load(this.words, Header.MappedPages),
      grants: used(grantTables, portTables, GRANT_WORDS, 0),
      ports: used(portTables, channelSets, PORT_WORDS, 0),
      channelSets: used(channelSets, wakeWords, LINE_WORDS, 0),
      wakeWords: used(wakeWords, frameMap, LINE_WORDS, 1),
    };
  }
}
