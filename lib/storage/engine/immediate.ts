/**
 * A channel that carries out operations in its caller's thread, in submit(): for engines that never wait, and for files
 * in single-stepped tests and simulations. Results can be reaped right after submit(); no thread is woken.
 */

import { EOPNOTSUPP } from "../../errno.ts";
import { type ChannelOptions, type IoChannel, type IoVectors } from "../disk.ts";
import { type Executor, OPERATION, type Operation } from "./executor.ts";
import { TableChannel } from "./operations.ts";
import { MemoryViews } from "./views.ts";

/**
 * A channel that carries out each operation in `submit`, by an executor that it owns: the shortest way to a
 * {@linkcode DiskModule} whose disk never waits.
 */
export function immediateChannel(executor: Executor, options: ChannelOptions): IoChannel {
  return new ImmediateChannel(executor, options);
}

/** Runs an executor, and owns it. */
export class ImmediateChannel extends TableChannel {
  readonly #executor: Executor;
  readonly #vectors: IoVectors;
  readonly #views: MemoryViews;

  constructor(executor: Executor, options: ChannelOptions) {
    super(options.depth);
    this.#executor = executor;
    this.#vectors = options.vectors;
    this.#views = new MemoryViews(options.memory, options.buffers);
  }

  submit(): void {
    const { table } = this;
    for (let tag = table.next; tag !== -1; tag = table.next) {
      table.shift();
      table.complete(tag, this.#carryOut(tag, table.operation[tag] as Operation, table.offsetBytes[tag]!));
    }
  }

  #carryOut(tag: number, operation: Operation, offsetBytes: number): number {
    const { table } = this;
    const executor = this.#executor;
    if (operation === OPERATION.discard) {
      return executor.discard?.(offsetBytes, table.lengthBytes[tag]!, table.secure[tag] === 1) ?? -EOPNOTSUPP;
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

  /** Throws if operations are in flight. */
  override [Symbol.dispose](): void {
    super[Symbol.dispose]();
    this.#executor[Symbol.dispose]();
  }
}
