/**
 * A filter in front of a channel that makes operations fail or complete late. A plan says which; no engine has faults of
 * its own. A late result wakes no thread, so use it only where the caller steps.
 */

import type { IoChannel, IoVectors } from "../disk.ts";
import { type OperationName, type RecordedOperation, vectorsLength } from "./record.ts";

/** What happens to one operation. */
export interface Fault {
  /** The negative errno it fails with; the engine never sees it then. */
  readonly errno?: number;
  /** How many reaps its result is held back after it is there. */
  readonly heldReaps?: number;
}

/** Decides by tag, kind and place what happens to an operation; undefined: nothing. */
export type FaultPlan = (operation: RecordedOperation) => Fault | undefined;

/** A result, and how many more reaps it is held back. */
interface HeldResult {
  readonly tag: number;
  readonly result: number;
  reapsLeft: number;
}

/** Carries out a plan of faults. It owns the channel behind it. */
export class FaultChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #inner: IoChannel;
  readonly #vectors: IoVectors;
  readonly #plan: FaultPlan;
  readonly #heldReaps = new Map<number, number>();
  #held: HeldResult[] = [];
  /** Failed operations that were not submitted yet. */
  #failed: HeldResult[] = [];

  /** `vectors` are those that the inner channel was opened with. */
  constructor(inner: IoChannel, vectors: IoVectors, plan: FaultPlan) {
    this.#inner = inner;
    this.#vectors = vectors;
    this.#plan = plan;
    this.tags = new Uint32Array(inner.tags.length);
    this.results = new Int32Array(inner.results.length);
  }

  get dueMs(): number {
    return this.#inner.dueMs ?? Infinity;
  }

  get inFlight(): number {
    return this.#inner.inFlight + this.#held.length + this.#failed.length;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    if (this.#passes("read", tag, offsetBytes, this.#length(first, count))) {
      this.#inner.read(tag, offsetBytes, first, count);
    }
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    if (this.#passes("write", tag, offsetBytes, this.#length(first, count))) {
      this.#inner.write(tag, offsetBytes, first, count);
    }
  }

  flush(tag: number): void {
    if (this.#passes("flush", tag, 0, 0)) this.#inner.flush(tag);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    if (this.#passes("discard", tag, offsetBytes, lengthBytes)) {
      this.#inner.discard(tag, offsetBytes, lengthBytes, secure);
    }
  }

  submit(): void {
    this.#held.push(...this.#failed.splice(0));
    this.#inner.submit();
  }

  reap(): number {
    const arrived = this.#inner.reap();
    for (let i = 0; i < arrived; i++) {
      const tag = this.#inner.tags[i]!;
      this.#held.push({ tag, result: this.#inner.results[i]!, reapsLeft: this.#heldReaps.get(tag) ?? 0 });
    }
    let count = 0;
    this.#held = this.#held.filter((held) => {
      if (held.reapsLeft-- > 0) return true;
      this.tags[count] = held.tag;
      this.results[count++] = held.result;
      return false;
    });
    return count;
  }

  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
  }

  #length(first: number, count: number): number {
    return vectorsLength(this.#vectors, first, count);
  }

  #passes(operation: OperationName, tag: number, offsetBytes: number, lengthBytes: number): boolean {
    const fault = this.#plan({ operation, tag, offsetBytes, lengthBytes });
    const heldReaps = fault?.heldReaps ?? 0;
    this.#heldReaps.set(tag, heldReaps);
    if (fault?.errno === undefined) return true;
    this.#failed.push({ tag, result: fault.errno, reapsLeft: heldReaps });
    return false;
  }
}
