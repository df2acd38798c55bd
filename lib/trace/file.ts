/**
 * The file of a trace, as its one writer sees it: a new session goes behind what is there already, and the last block is
 * written again until it is full. So the file consists of whole blocks at any time, whenever the process is killed.
 */

import { errorText, XenblkError } from "../errors.ts";
import { cannotWrite, checkKind, noTrace } from "./check.ts";
import {
  BLOCK_BYTES,
  decodeBlock,
  encodeSession,
  HEADER_BYTES,
  RECORDS_PER_BLOCK,
  sealRecords,
  type TraceSession,
} from "./format.ts";
import { RECORD_BYTES } from "./record.ts";

/** A trace file that is open for writing, and locked. */
export class TraceFile implements Disposable {
  readonly #file: Deno.FsFile;
  readonly #path: string;
  readonly #session: TraceSession;
  readonly #limitBytes: number;
  /** The present block, where it is in the file, its records, and those lost after them. */
  readonly #block = new Uint8Array(BLOCK_BYTES);
  #offset: number;
  #count = 0;
  #lost = 0;
  /** Something of the present block is not in the file yet. */
  #dirty = false;
  #isFull = false;

  private constructor(file: Deno.FsFile, path: string, session: TraceSession, offset: number, limitBytes: number) {
    this.#file = file;
    this.#path = path;
    this.#session = session;
    this.#offset = offset;
    this.#limitBytes = limitBytes;
  }

  /**
   * Opens or creates a trace, to continue it. Throws {@linkcode XenblkError} if the file cannot be opened, is no trace, or
   * another writer has it. Nothing of the file is changed before {@linkcode begin}.
   */
  static open(path: string, session: TraceSession, limitBytes = Infinity): TraceFile {
    let file: Deno.FsFile | undefined;
    try {
      if (exists(path)) checkKind(path, Deno.statSync(path));
      file = Deno.openSync(path, { read: true, write: true, create: true, mode: 0o600 });
      if (!file.tryLockSync(true)) {
        throw cannotWrite(
          path,
          "another disk or process writes to it",
          "use {device} in its name, so that each disk has its own",
        );
      }
      const { size } = file.statSync();
      if (size > 0) checkTrace(file, path);
      return new TraceFile(file, path, session, size - size % BLOCK_BYTES, limitBytes);
    } catch (error) {
      file?.close();
      throw error instanceof XenblkError ? error : cannotWrite(path, errorText(error), undefined, error);
    }
  }

  /**
   * Writes the session's block, if it and a block of records fit below the limit. Call it once, before anything else.
   * Throws {@linkcode XenblkError} if the write fails.
   */
  begin(): void {
    if (this.#offset + 2 * BLOCK_BYTES > this.#limitBytes) {
      this.#isFull = true;
      return;
    }
    this.#write(encodeSession(this.#session));
    this.#offset += BLOCK_BYTES;
  }

  /** Further records do not fit below the limit. */
  get isFull(): boolean {
    return this.#isFull;
  }

  /** Appends whole records; beyond the limit they count as lost. Throws {@linkcode XenblkError} if a write fails. */
  append(records: Uint8Array): void {
    for (let done = 0; done < records.length;) {
      if (this.#isFull) return this.lose((records.length - done) / RECORD_BYTES);
      if (this.#count === RECORDS_PER_BLOCK) {
        this.#nextBlock();
        continue;
      }
      const room = (RECORDS_PER_BLOCK - this.#count) * RECORD_BYTES;
      const piece = records.subarray(done, done + room);
      this.#block.set(piece, HEADER_BYTES + this.#count * RECORD_BYTES);
      this.#count += piece.length / RECORD_BYTES;
      this.#dirty = true;
      done += piece.length;
    }
  }

  /** Notes that records are missing here. */
  lose(count: number): void {
    if (count === 0 || (this.#isFull && this.#count === 0)) return; // full from the beginning
    this.#lost += count;
    this.#dirty = true;
  }

  /** Writes what is not in the file yet. Throws {@linkcode XenblkError} if that fails. */
  flush(): void {
    if (!this.#dirty) return;
    sealRecords(this.#block, this.#count, this.#lost);
    this.#write(this.#block);
    this.#dirty = false;
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }

  /** Writes the present block and begins another one, unless that is beyond the limit. */
  #nextBlock(): void {
    this.flush();
    this.#isFull = this.#offset + 2 * BLOCK_BYTES > this.#limitBytes;
    if (this.#isFull) return;
    this.#offset += BLOCK_BYTES;
    this.#count = this.#lost = 0;
    this.#block.fill(0);
  }

  #write(block: Uint8Array): void {
    try {
      this.#file.seekSync(this.#offset, Deno.SeekMode.Start);
      for (let done = 0; done < block.length;) done += this.#file.writeSync(block.subarray(done));
    } catch (error) {
      throw cannotWrite(this.#path, errorText(error), undefined, error);
    }
  }
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Refuses a file that somebody named by mistake, such as an image. */
function checkTrace(file: Deno.FsFile, path: string): void {
  const block = new Uint8Array(BLOCK_BYTES);
  let filled = 0;
  for (let count = 1; filled < block.length && count > 0; filled += count) {
    count = file.readSync(block.subarray(filled)) ?? 0;
  }
  const found = decodeBlock(block);
  if (found.kind === "session") return;
  const why = found.kind === "damaged" ? found.why : "it begins with records, not with a session";
  throw noTrace(path, why);
}
