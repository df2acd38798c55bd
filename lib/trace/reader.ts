/**
 * Reads a trace as a stream of sessions and records. It holds a few blocks in memory, however long the trace is. Damaged
 * blocks are skipped and counted: only a file that does not begin like a trace is refused.
 */

import { errorText, XenblkError } from "../errors.ts";
import { BLOCK_BYTES, cannotRead, decodeBlock, HEADER_BYTES } from "./format.ts";
import { decodeRecord, RECORD_BYTES, TraceRecord, viewOf } from "./record.ts";
import { type TraceSession } from "./format.ts";

/** Blocks that one read takes. */
const BLOCKS_AT_ONCE = 64;

/** What a trace is read from: at most the buffer's length from where the last read ended; 0 or null at the end. */
export interface TraceSource {
  /** Reads synchronously. */
  readSync(into: Uint8Array): number | null;
}

/** What is wrong with a trace, as far as it was read. */
export interface TraceFaults {
  /** Requests that the recorder had no room for. */
  readonly lost: number;
  /** Blocks that were skipped. */
  readonly damagedBlocks: number;
  /** Records of unknown operations, which were skipped. */
  readonly unknownRecords: number;
  /** Bytes of an incomplete last block. */
  readonly cutBytes: number;
  /** Where the first fault is, and what it is. */
  readonly first: string | undefined;
}

/** One pass over a trace. */
export class TraceReader {
  /** The record that {@linkcode next} has found; changes with the next call. */
  readonly record: TraceRecord = new TraceRecord();
  readonly #source: TraceSource;
  readonly #name: string;
  readonly #buffer = new Uint8Array(BLOCKS_AT_ONCE * BLOCK_BYTES);
  readonly #view = viewOf(this.#buffer);
  #filled = 0;
  /** Where the present block begins, in the buffer and in the trace. */
  #block = 0;
  #offset = 0;
  /** Records of the present block, and the next of them. */
  #count = 0;
  #next = 0;
  #started = false;
  #session: TraceSession | undefined;
  #lost = 0;
  #damagedBlocks = 0;
  #unknownRecords = 0;
  #cutBytes = 0;
  #first: string | undefined;

  /** `name` is for messages. */
  constructor(source: TraceSource, name: string) {
    this.#source = source;
    this.#name = name;
  }

  /** The session of the last record; undefined before the first. */
  get session(): TraceSession | undefined {
    return this.#session;
  }

  /** What was wrong so far. */
  get faults(): TraceFaults {
    return {
      lost: this.#lost,
      damagedBlocks: this.#damagedBlocks,
      unknownRecords: this.#unknownRecords,
      cutBytes: this.#cutBytes,
      first: this.#first,
    };
  }

  /**
   * Goes on to the next record, session or other block: so each call takes a bounded time, whatever is damaged. Throws
   * {@linkcode XenblkError} if the file cannot be read or does not begin with a session of a known version.
   */
  next(): "record" | "session" | "block" | "end" {
    while (this.#next < this.#count) {
      const at = this.#block + HEADER_BYTES + this.#next * RECORD_BYTES;
      this.#next++;
      if (decodeRecord(this.#view, at, this.record)) return "record";
      this.#unknownRecords++;
      this.#fault(`record ${this.#next} of the block at byte ${this.#offset}`, "its operation is unknown");
    }
    if (!this.#advance()) return "end";
    return this.#open() ? "session" : "block";
  }

  /** Goes on to the next block. False: there is none. */
  #advance(): boolean {
    const first = !this.#started;
    if (!first) {
      this.#block += BLOCK_BYTES;
      this.#offset += BLOCK_BYTES;
    }
    this.#started = true;
    this.#count = this.#next = 0;
    if (this.#block + BLOCK_BYTES <= this.#filled) return true;
    this.#fill();
    if (this.#filled >= BLOCK_BYTES) return true;
    if (first) {
      throw cannotRead(
        this.#name,
        this.#filled === 0 ? "it is empty" : `it ends at byte ${this.#filled}, within its first block`,
      );
    }
    if (this.#filled > 0 && this.#cutBytes === 0) {
      this.#cutBytes = this.#filled;
      this.#fault(`the block at byte ${this.#offset}`, `the trace ends within it, after ${this.#filled} bytes`);
    }
    return false;
  }

  /** Reads on, to the beginning of the buffer. */
  #fill(): void {
    this.#buffer.copyWithin(0, this.#block, this.#filled);
    this.#filled -= this.#block;
    this.#block = 0;
    try {
      while (this.#filled < this.#buffer.length) {
        const count = this.#source.readSync(this.#buffer.subarray(this.#filled));
        if (count === null || count === 0) return;
        this.#filled += count;
      }
    } catch (error) {
      const at = this.#offset + this.#filled;
      throw new XenblkError(`Cannot read trace ${this.#name} at byte ${at}: ${errorText(error)}`, { cause: error });
    }
  }

  /** Reads the header of the present block. True: it begins a session. */
  #open(): boolean {
    const block = decodeBlock(this.#buffer.subarray(this.#block, this.#block + BLOCK_BYTES));
    if (this.#session === undefined && block.kind !== "session") {
      if (block.kind === "damaged") {
        const why = `the block at byte ${this.#offset}: ${block.why}`;
        throw cannotRead(this.#name, why, "name a trace that the filter log has written");
      }
      throw cannotRead(this.#name, "it begins with records, not with a session");
    }
    if (block.kind === "session") {
      this.#session = block.session;
      return true;
    }
    if (block.kind === "damaged") {
      this.#damagedBlocks++;
      this.#fault(`the block at byte ${this.#offset}`, block.why);
    } else {
      this.#count = block.count;
      this.#lost += block.lost;
    }
    return false;
  }

  #fault(where: string, why: string): void {
    this.#first ??= `${where}: ${why}`;
  }
}

/** A trace that is open for reading. */
export interface OpenTrace extends Disposable {
  readonly reader: TraceReader;
  /** For progress. */
  readonly sizeBytes: number;
}

/** Opens a trace. Throws {@linkcode XenblkError} if it cannot be opened or is no regular file. */
export function openTrace(path: string): OpenTrace {
  let file: Deno.FsFile;
  let sizeBytes: number;
  try {
    const { isFile, isDirectory, size } = Deno.statSync(path);
    // Opening a pipe would wait for its writer.
    if (!isFile) throw cannotRead(path, isDirectory ? "it is a directory" : "it is not a regular file");
    file = Deno.openSync(path);
    sizeBytes = size;
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    const missing = error instanceof Deno.errors.NotFound;
    throw new XenblkError(`Cannot read trace ${path}: ${missing ? "there is no such file" : errorText(error)}`, {
      cause: error,
      ...(missing ? { remedy: "record one with `--filter log,file=TRACE`" } : {}),
    });
  }
  return { reader: new TraceReader(file, path), sizeBytes, [Symbol.dispose]: () => file.close() };
}
