/**
 * The `null` engine: completes everything and moves nothing, to measure what surrounds an engine. What a read
 * delivers is whatever the buffer held. It must not know channels or threads.
 */

import { EBADF, EOPNOTSUPP } from "../../errno.ts";
import { type Executor, OPERATION, type Operation } from "./executor.ts";

/** Succeeds at once, save for a write to a read-only disk. */
export class NullExecutor implements Executor {
  readonly #readOnly: boolean;

  constructor(readOnly: boolean) {
    this.#readOnly = readOnly;
  }

  execute(operation: Operation): number {
    return operation === OPERATION.write && this.#readOnly ? -EBADF : 0;
  }

  discard(_offsetBytes: number, _lengthBytes: number, secure: boolean): number {
    if (this.#readOnly) return -EBADF;
    return secure ? -EOPNOTSUPP : 0;
  }

  [Symbol.dispose](): void {}
}
