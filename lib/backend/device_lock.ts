/**
 * The lock of one device. The process that holds it serves the rings, keeps the journals and writes the nodes. The lock
 * is kept beside the journals, and is released when its process ends.
 */

import type { JournalStore } from "../hypervisor.ts";
import type { Owner } from "../xenbus/transitions.ts";

/** One device's lock, as this process last found it. */
export class DeviceLock implements Disposable {
  readonly #store: JournalStore;
  readonly #name: string;
  #lock: Disposable | undefined;
  #owner: Owner = "nobody";

  /** `name` is the lock's, in the store. */
  constructor(store: JournalStore, name: string) {
    this.#store = store;
    this.#name = name;
  }

  /** Who owns the device, as of the last {@linkcode claim}. */
  get owner(): Owner {
    return this.#owner;
  }

  /** Takes the lock if it is free. If that cannot be found out, throws, and the owner is `unknown`. */
  claim(): Owner {
    this.#owner = "unknown";
    this.#lock ??= this.#store.lock(this.#name);
    return this.#owner = this.#lock === undefined ? "other" : "us";
  }

  /** The other process may have ended meanwhile: the lock has to be tried again. */
  doubtOther(): void {
    if (this.#owner === "other") this.#owner = "nobody";
  }

  /** Releases the lock. */
  [Symbol.dispose](): void {
    this.#lock?.[Symbol.dispose]();
    this.#lock = undefined;
    this.#owner = "nobody";
  }
}
