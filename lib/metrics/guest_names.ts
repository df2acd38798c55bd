/**
 * The names of guests, as the toolstack wrote them into xenstore. A call to xenstored may wait for it, so each name is
 * read once a minute at most, and xenstored is left alone for a minute after it has failed.
 */

import type { Xenstore } from "../hypervisor.ts";
import { type Clock, SYSTEM_CLOCK } from "../clock.ts";

/** How long a name counts; `xl rename` changes it. */
const KEPT_MS = 60_000;
/** Names in memory: more than a host has guests. Over it, all are read again. */
const MOST_NAMES = 10_000;

/** Guests' names by domid. */
export class GuestNames implements Disposable {
  readonly #open: () => Xenstore;
  readonly #clock: Pick<Clock, "now">;
  readonly #names = new Map<number, { readonly name: string | undefined; readonly atMs: number }>();
  #store: Xenstore | undefined;
  #failedMs = -Infinity;

  /** `open` connects to xenstored. */
  constructor(open: () => Xenstore, clock: Pick<Clock, "now"> = SYSTEM_CLOCK) {
    this.#open = open;
    this.#clock = clock;
  }

  /** The name of a guest; undefined if it has none, or xenstored does not tell it. */
  of(domid: number): string | undefined {
    const known = this.#names.get(domid);
    const now = this.#clock.now();
    if (known !== undefined && now - known.atMs < KEPT_MS) return known.name;
    if (now - this.#failedMs < KEPT_MS) return known?.name;
    if (this.#names.size >= MOST_NAMES) this.#names.clear();
    try {
      this.#store ??= this.#open();
      const name = this.#store.read(`/local/domain/${domid}/name`) || undefined;
      this.#names.set(domid, { name, atMs: now });
      return name;
    } catch {
      // The devices report the same trouble themselves.
      this.#failedMs = now;
      this[Symbol.dispose]();
      return known?.name;
    }
  }

  [Symbol.dispose](): void {
    this.#store?.[Symbol.dispose]();
    this.#store = undefined;
  }
}
