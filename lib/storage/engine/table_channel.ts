/**
 * What channels have in common whose operations wait in a table until submit(): queueing by tag and reaping. How an
 * operation is carried out is each channel's own affair and not known here.
 */

import type { IoChannel } from "../disk.ts";
import { OPERATION } from "./executor.ts";
import { OperationTable } from "./operations.ts";

/** See the file's first lines. */
export abstract class TableChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  protected readonly table: OperationTable;

  constructor(depth: number) {
    this.table = new OperationTable(depth);
    this.tags = this.table.tags;
    this.results = this.table.results;
  }

  get inFlight(): number {
    return this.table.inFlight;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.table.add(tag, OPERATION.read, offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.table.add(tag, OPERATION.write, offsetBytes, first, count);
  }

  flush(tag: number): void {
    this.table.add(tag, OPERATION.flush, 0, 0, 0);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.table.addDiscard(tag, offsetBytes, lengthBytes, secure);
  }

  abstract submit(): void;

  reap(): number {
    return this.table.reap();
  }

  /** Throws if operations are in flight. */
  [Symbol.dispose](): void {
    this.table.checkIdle();
  }
}
