/**
 * Lines over a byte stream, with bounds: a reader that takes no line beyond a length, and a writer that queues no more
 * than a number of bytes for a peer that does not read.
 */

/** A line is longer than allowed. */
export class LineTooLongError extends Error {}

const BREAK = "\n".charCodeAt(0);
const READ_BYTES = 16_384;

/** A stream of bytes, such as a connection. */
export interface ByteSource {
  /** Resolves with the number of bytes, or null at the end. */
  read(buffer: Uint8Array): Promise<number | null>;
}

/**
 * The lines of a stream, as text without line ends; bytes that are not UTF-8 become U+FFFD. What follows the last line
 * end is dropped. Throws {@linkcode LineTooLongError}, and what reading throws.
 */
export async function* readLines(source: ByteSource, mostBytes: number): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(READ_BYTES);
  let pending: Uint8Array[] = [];
  let pendingBytes = 0;
  for (let count = await source.read(buffer); count !== null; count = await source.read(buffer)) {
    let start = 0;
    for (let end = buffer.indexOf(BREAK); end >= 0 && end < count; end = buffer.indexOf(BREAK, start)) {
      if (pendingBytes + end - start > mostBytes) throw new LineTooLongError();
      yield decoder.decode(joined([...pending, buffer.subarray(start, end)]));
      [pending, pendingBytes, start] = [[], 0, end + 1];
    }
    if (start === count) continue;
    pending.push(buffer.slice(start, count));
    pendingBytes += count - start;
    if (pendingBytes > mostBytes) throw new LineTooLongError();
  }
}

function joined(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((total, { length }) => total + length, 0));
  let offset = 0;
  for (const part of parts) {
    all.set(part, offset);
    offset += part.length;
  }
  return all;
}

/** Where lines go, such as a connection or standard output. */
export interface ByteTarget {
  /** Resolves with the number of bytes that were taken. */
  write(bytes: Uint8Array): Promise<number>;
}

/** Writes lines in order, in the background. */
export class LineWriter {
  readonly #target: ByteTarget;
  #mostBytes: number;
  readonly #encoder = new TextEncoder();
  readonly #broken = Promise.withResolvers<void>();
  #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #writing: Promise<void> | undefined;
  #ended = false;

  /** `mostBytes` may wait for the peer. */
  constructor(target: ByteTarget, mostBytes: number) {
    this.#target = target;
    this.#mostBytes = mostBytes;
  }

  /** Resolves when a write has failed. */
  get broken(): Promise<void> {
    return this.#broken.promise;
  }

  /** Resolves when everything was written, or nothing more can be. */
  get drained(): Promise<void> {
    return this.#writing ?? Promise.resolve();
  }

  /** Adds a line. False, and it is dropped, if too much waits already, or the target is broken or ended. */
  add(line: string): boolean {
    if (this.#ended) return false;
    const bytes = this.#encoder.encode(`${line}\n`);
    if (this.#queue.length > 0 && this.#queuedBytes + bytes.length > this.#mostBytes) return false;
    this.#queue.push(bytes);
    this.#queuedBytes += bytes.length;
    this.#writing ??= this.#write();
    return true;
  }

  /** Drops what waits, except a line that is half written, and takes this one as the last. */
  end(last?: string): void {
    if (this.#ended) return;
    this.#queue.splice(1);
    this.#queuedBytes = this.#queue[0]?.length ?? 0;
    this.#mostBytes = Infinity;
    if (last !== undefined) this.add(last);
    this.#ended = true;
  }

  async #write(): Promise<void> {
    try {
      for (let bytes = this.#queue[0]; bytes !== undefined; bytes = this.#queue[0]) {
        for (let done = 0; done < bytes.length;) done += await this.#target.write(bytes.subarray(done));
        this.#queue.shift();
        this.#queuedBytes -= bytes.length;
      }
    } catch {
      this.#queue = [];
      this.#ended = true;
      this.#broken.resolve();
    }
    this.#writing = undefined;
  }
}
