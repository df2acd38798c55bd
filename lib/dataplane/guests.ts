/**
 * The guests that a reactor serves rings of, and those of them whose events may have come: only these are asked for them, if
 * the parker reports every event.
 */

import type { DomId, Parker, Platform } from "../hypervisor.ts";
import { Guest } from "./guest.ts";
import { IndexSet } from "./index_set.ts";
import type { Served } from "./served.ts";

/** The guests of one reactor. */
export class Guests {
  readonly #platform: Platform;
  readonly #parker: Parker;
  readonly #byDomain = new Map<DomId, Guest<Served>>();
  #list: Guest<Served>[] = [];
  /** By number: those whose events may have come. */
  readonly #alert = new IndexSet();

  constructor(platform: Platform, parker: Parker) {
    this.#platform = platform;
    this.#parker = parker;
  }

  /** The guest of that domain. Throws what opening its event channels throws. */
  open(domain: DomId): Guest<Served> {
    const known = this.#byDomain.get(domain);
    if (known !== undefined) return known;
    const guest = new Guest<Served>(domain, this.#platform, this.#parker, ({ index }) => this.#alert.add(index));
    this.#byDomain.set(domain, guest);
    this.#number();
    return guest;
  }

  /** A ring of the guest was opened or closed. True: it has none any more, and is to be disposed. */
  leaves(guest: Guest<Served>): boolean {
    this.#alert.add(guest.index); // an event of a port that was closed may still wait to be taken
    if (guest.byPort.size > 0) return false;
    guest.share.forget();
    this.#byDomain.delete(guest.domain);
    this.#number();
    return true;
  }

  /** Takes the events that may have come. True: there may be more. A guest whose events cannot be taken `fails`. */
  takeEvents(fails: (guest: Guest<Served>, error: unknown) => void): boolean {
    const list = this.#list;
    let more = false;
    for (let index = this.#alert.from(0); index < list.length; index = this.#alert.from(index + 1)) {
      const guest = list[index]!;
      try {
        if (guest.takeEvents()) more = true;
        else if (guest.isSilent) this.#alert.delete(index);
      } catch (error) {
        fails(guest, error);
      }
    }
    return more;
  }

  /** They get new numbers, and all are asked once more. */
  #number(): void {
    this.#list = [...this.#byDomain.values()];
    this.#alert.reset(this.#list.length);
    for (const [index, guest] of this.#list.entries()) {
      guest.index = index;
      this.#alert.add(index);
    }
  }
}
