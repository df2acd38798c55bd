/**
 * The records of a trace in the order of their times. A trace has them in the order of completion, and of several rings
 * mixed. A window of bounded size sorts them; sessions follow one another without the time between them.
 */

import { type TraceSession } from "./format.ts";
import { TraceRecord } from "./record.ts";
import type { TraceReader } from "./reader.ts";

/** Records that wait to be sorted: as many as the rings of a large disk can have in flight. */
const WINDOW = 8192;

/** Blocks that one call reads: more than fill the window, unless they are damaged, or sessions without records. */
const MOST_BLOCKS = 1000;

/** A record, and where it stands. */
interface Entry {
  readonly record: TraceRecord;
  /** Microseconds since the first session began. */
  timeUs: number;
  /** Among records of the same time, the first one read comes first. */
  serial: number;
}

/** One pass over a trace in the order of times. Nothing is allocated per record. */
export class OrderedTrace {
  /** Records that came later than the window can sort: they follow those that were submitted after them. */
  late = 0;
  readonly #reader: TraceReader;
  /** A binary heap in its first {@linkcode #size} entries. */
  readonly #heap: Entry[];
  #size = 0;
  #serial = 0;
  /** Where the present session begins on the time of the whole trace. */
  #baseUs = 0;
  #lastUs = 0;
  #current: TraceRecord | undefined;
  #pendingSession = false;
  #ended = false;

  constructor(reader: TraceReader, window = WINDOW) {
    this.#reader = reader;
    this.#heap = Array.from({ length: window }, () => ({ record: new TraceRecord(), timeUs: 0, serial: 0 }));
  }

  /** The session of the record that was read last. */
  get session(): TraceSession | undefined {
    return this.#reader.session;
  }

  /** When the present record was submitted: microseconds since the first session began; never less than before. */
  get timeUs(): number {
    return this.#lastUs;
  }

  /** There is nothing after the present record. */
  get ended(): boolean {
    return this.#ended && this.#size === 0;
  }

  /**
   * The next record, valid until the next call; undefined at the end, and if a call would take too long: call again unless
   * {@linkcode ended}. Throws as {@linkcode TraceReader.next} does.
   */
  next(): TraceRecord | undefined {
    if (!this.#fill() || this.#size === 0) return undefined;
    const first = this.#heap[0]!;
    const last = --this.#size;
    this.#heap[0] = this.#heap[last]!;
    // It stays untouched until the next fill, which comes with the next call.
    this.#heap[last] = first;
    this.#sink();
    if (first.timeUs < this.#lastUs) this.late++;
    else this.#lastUs = first.timeUs;
    this.#current = first.record;
    return this.#current;
  }

  /** Fills the window, but not across the beginning of a session. False: it is not full yet, and could be. */
  #fill(): boolean {
    let blocks = 0;
    while (this.#size < this.#heap.length && !this.#ended) {
      if (this.#pendingSession) {
        if (this.#size > 0) return true;
        this.#pendingSession = false;
        this.#baseUs = this.#lastUs;
      }
      const found = this.#reader.next();
      if (found === "end") this.#ended = true;
      else if (found === "record") this.#add(this.#reader.record);
      else {
        if (found === "session") this.#pendingSession = true;
        if (++blocks === MOST_BLOCKS) return false;
      }
    }
    return true;
  }

  #add(record: TraceRecord): void {
    let at = this.#size++;
    const entry = this.#heap[at]!;
    entry.record.copy(record);
    entry.timeUs = this.#baseUs + record.timeUs;
    entry.serial = this.#serial++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(entry, this.#heap[parent]!)) break;
      this.#heap[at] = this.#heap[parent]!;
      at = parent;
    }
    this.#heap[at] = entry;
  }

  /** Moves the first entry down to its place. */
  #sink(): void {
    const heap = this.#heap;
    const entry = heap[0]!;
    let at = 0;
    for (let child = 1; child < this.#size; child = 2 * at + 1) {
      if (child + 1 < this.#size && isBefore(heap[child + 1]!, heap[child]!)) child++;
      if (!isBefore(heap[child]!, entry)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    if (this.#size > 0) heap[at] = entry;
  }
}

function isBefore(one: Entry, other: Entry): boolean {
  return one.timeUs < other.timeUs || (one.timeUs === other.timeUs && one.serial < other.serial);
}
