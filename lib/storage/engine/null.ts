/**
 * The `null` engine completes every operation and moves no data. It measures the cost of everything except the engine. A
 * read delivers whatever the buffer held.
 */

import { EBADF, EOPNOTSUPP } from "../../errno.ts";
import type { ChannelOptions, DiskAttachment, IoChannel } from "../disk.ts";
import { type Executor, OPERATION, type Operation } from "./executor.ts";
import { ImmediateChannel } from "./immediate.ts";

/** Names a null disk. */
export interface NullAttachment extends DiskAttachment {
  readonly readOnly: boolean;
}

/** Names a disk that completes everything. */
export function nullAttachment(readOnly = false): NullAttachment {
  return { module: import.meta.url, readOnly };
}

/** See DiskModule. */
export function openChannel({ readOnly }: NullAttachment, options: ChannelOptions): IoChannel {
  return new ImmediateChannel(new NullExecutor(readOnly), options);
}

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
