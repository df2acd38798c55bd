/**
 * A filter in front of a channel that records what passes: tests use it to show that flushes and barriers keep their
 * order.
 */

import type { IoChannel, IoVectors } from "../disk.ts";

/** What a channel can be asked to do. */
export type OperationName = "read" | "write" | "flush" | "discard";

/** An operation as it was asked for; a flush has neither offset nor length. */
export interface RecordedOperation {
  /** What was asked for. */
  readonly operation: OperationName;
  readonly tag: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** One line of the record: an operation was asked for, or was reaped with this result. */
export interface RecordedEvent extends RecordedOperation {
  /** Asked for, or reaped. */
  readonly event: "start" | "end";
  /** 0 for a start. */
  readonly result: number;
}

/** Bytes that an operation's vectors name. */
export function vectorsLength(vectors: IoVectors, first: number, count: number): number {
  let lengthBytes = 0;
  for (let i = first; i < first + count; i++) lengthBytes += vectors.lengths[i]!;
  return lengthBytes;
}

/** Passes everything on and appends it to `events`. It owns the channel behind it. */
export class RecordingChannel implements IoChannel {
  readonly #inner: IoChannel;
  readonly #vectors: IoVectors;
  readonly #events: RecordedEvent[];
  readonly #operations = new Map<number, RecordedOperation>();

  /** `vectors` are those that the inner channel was opened with. */
  constructor(inner: IoChannel, vectors: IoVectors, events: RecordedEvent[]) {
    this.#inner = inner;
    this.#vectors = vectors;
    this.#events = events;
  }

  get dueMs(): number {
    return this.#inner.dueMs ?? Infinity;
  }

  get inFlight(): number {
    return this.#inner.inFlight;
  }

  get tags(): Uint32Array {
    return this.#inner.tags;
  }

  get results(): Int32Array {
    return this.#inner.results;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#start({ operation: "read", tag, offsetBytes, lengthBytes: vectorsLength(this.#vectors, first, count) });
    this.#inner.read(tag, offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#start({ operation: "write", tag, offsetBytes, lengthBytes: vectorsLength(this.#vectors, first, count) });
    this.#inner.write(tag, offsetBytes, first, count);
  }

  flush(tag: number): void {
    this.#start({ operation: "flush", tag, offsetBytes: 0, lengthBytes: 0 });
    this.#inner.flush(tag);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.#start({ operation: "discard", tag, offsetBytes, lengthBytes });
    this.#inner.discard(tag, offsetBytes, lengthBytes, secure);
  }

  submit(): void {
    this.#inner.submit();
  }

  reap(): number {
    const count = this.#inner.reap();
    for (let i = 0; i < count; i++) {
      const operation = this.#operations.get(this.tags[i]!);
      if (operation !== undefined) this.#events.push({ ...operation, event: "end", result: this.results[i]! });
    }
    return count;
  }

  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
  }

  #start(operation: RecordedOperation): void {
    this.#operations.set(operation.tag, operation);
    this.#events.push({ ...operation, event: "start", result: 0 });
  }
}
