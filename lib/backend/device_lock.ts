/**
 * The lock that makes a device one process's: whoever holds it serves the rings, keeps the journals and writes the
 * nodes. It lies beside the journals, and ends with its process.
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

  /** Whose the device is, as far as was asked. */
  get owner(): Owner {
    return this.#owner;
  }

  /** Takes the lock if it is free. Throws, and the owner is `unknown`, if that cannot be found out. */
  claim(): Owner {
    this.#owner = "unknown";
    this.#lock ??= this.#store.lock(this.#name);
    return this.#owner = this.#lock === undefined ? "other" : "us";
  }

  /** Another process may have ended meanwhile: who asks next finds out. */
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
