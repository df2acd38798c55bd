/**
 * A channel that carries operations out in its caller's thread, in submit(): for engines that need no waiting, and for
 * files where a test or a simulation is single-stepped. Results can be reaped right after submit(); nobody is woken.
 */

import { type ChannelOptions, EOPNOTSUPP, type IoChannel, type IoVectors } from "./disk.ts";
import { type Executor, OPERATION, type Operation } from "./executor.ts";
import { OperationTable } from "./operations.ts";
import { MemoryViews } from "./views.ts";

/** Runs an executor, which it owns. */
export class ImmediateChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #executor: Executor;
  readonly #table: OperationTable;
  readonly #vectors: IoVectors;
  readonly #views: MemoryViews;

  constructor(executor: Executor, options: ChannelOptions) {
    this.#executor = executor;
    this.#table = new OperationTable(options.depth);
    this.tags = this.#table.tags;
    this.results = this.#table.results;
    this.#vectors = options.vectors;
    this.#views = new MemoryViews(options.memory, options.buffers);
  }

  get inFlight(): number {
    return this.#table.inFlight;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#table.add(tag, OPERATION.read, offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#table.add(tag, OPERATION.write, offsetBytes, first, count);
  }

  flush(tag: number): void {
    this.#table.add(tag, OPERATION.flush, 0, 0, 0);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.#table.addDiscard(tag, offsetBytes, lengthBytes, secure);
  }

  submit(): void {
    const table = this.#table;
    for (let tag = table.next; tag !== -1; tag = table.next) {
      table.shift();
      table.complete(tag, this.#carryOut(tag, table.operation[tag] as Operation, table.offsetBytes[tag]!));
    }
  }

  #carryOut(tag: number, operation: Operation, offsetBytes: number): number {
    const table = this.#table;
    const executor = this.#executor;
    if (operation === OPERATION.discard) {
      return executor.discard?.(offsetBytes, table.lengthBytes[tag]!, table.secure[tag] === 1) ?? EOPNOTSUPP;
    }
    return executor.execute(
      operation,
      offsetBytes,
      this.#vectors,
      table.first[tag]!,
      table.count[tag]!,
      this.#views,
    );
  }

  reap(): number {
    return this.#table.reap();
  }

  /** Throws if operations are in flight. */
  [Symbol.dispose](): void {
    this.#table.checkIdle();
    this.#executor[Symbol.dispose]();
  }
}
