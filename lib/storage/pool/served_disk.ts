/**
 * A disk as one I/O Worker has it: opened when it is first needed, and every call that may block announced to the control
 * plane, which sees when it does not return.
 */

import type { Executor } from "../engine/executor.ts";
import type { Activity } from "./activity.ts";
import type { DiskLoad } from "./disk_load.ts";

/** A Worker's number, and where it says what it does. */
export interface WorkerActivity {
  readonly worker: number;
  readonly activity: Activity;
}

/** A disk as this Worker knows it; opened when it is needed. */
export class ServedDisk {
  readonly load: DiskLoad;
  readonly #number: number;
  readonly #self: WorkerActivity;
  #open: (() => Executor) | undefined;
  #executor: Executor | undefined;
  #failure: unknown;

  /** `number` is the disk's. */
  constructor(number: number, load: DiskLoad, self: WorkerActivity) {
    this.#number = number;
    this.load = load;
    this.#self = self;
  }

  /** Its module is loaded. */
  set opener(open: () => Executor) {
    this.#open = open;
  }

  /** It cannot be opened here: others have to serve it. */
  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** Its jobs can be taken, or answered with an error. */
  get ready(): boolean {
    return this.#open !== undefined && !(this.failed && this.load.opened > 0);
  }

  /** Opens the disk, if it is not open. Throws what its module throws, also later. */
  open(): Executor {
    if (this.#executor !== undefined) return this.#executor;
    if (this.#failure !== undefined) throw this.#failure;
    try {
      this.begin();
      this.#executor = this.#open!();
      this.load.countOpened(1);
      return this.#executor;
    } catch (error) {
      this.fail(error);
      throw error;
    } finally {
      this.end();
    }
  }

  /** It is not served here, for that reason. */
  fail(reason: unknown): void {
    this.#failure = reason;
  }

  /** A call that may block begins. */
  begin(): void {
    this.#self.activity.begin(this.#self.worker, this.#number);
  }

  /** The call that began last is over. */
  end(): void {
    this.#self.activity.end(this.#self.worker);
  }

  /** Closes the disk, if it is open. Throws what its executor throws. */
  close(): void {
    const executor = this.#executor;
    this.#executor = undefined;
    if (executor === undefined) return;
    this.load.countOpened(-1);
    this.begin();
    try {
      executor[Symbol.dispose]();
    } finally {
      this.end();
    }
  }
}
