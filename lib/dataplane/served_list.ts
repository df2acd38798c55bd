/**
 * The rings of one reactor, and those of them that have something to do: a turn looks only at these, so that idle rings cost
 * the others nothing. A ring comes in when it is woken (see {@linkcode Served.wake}), and goes when a look finds it idle.
 */

import { IndexSet } from "./index_set.ts";
import { isReady, type Served } from "./served.ts";

/** By number, in the order in which they are visited. */
export class ServedList {
  readonly all: Served[] = [];
  /** Those that are looked at. */
  readonly active = new IndexSet();
  /** Those with a channel that has a due time. */
  timed: Served[] = [];
  /** Light ones whose rings are still looked at without an event, while there are heavy ones. */
  readonly #looked = new IndexSet();

  add(served: Served): void {
    this.all.push(served);
    this.#number();
  }

  remove(index: number): Served {
    const [served] = this.all.splice(index, 1);
    this.#number();
    return served!;
  }

  find(id: number): Served | undefined {
    return this.all.find((served) => served.id === id);
  }

  findTimed(): void {
    this.timed = this.all.filter(({ connection }) => connection.limiter.isTimed);
  }

  /** One with much to do has work, or I/O in flight. */
  get hasHeavy(): boolean {
    const { all, active } = this;
    for (let index = active.from(0); index < all.length; index = active.from(index + 1)) {
      const served = all[index]!;
      if (served.isHeavy && isReady(served)) return true;
    }
    return false;
  }

  /** The first number from `index` on of one that may be light and have something to do. */
  lightFrom(index: number): number {
    return Math.min(this.active.from(index), this.#looked.from(index));
  }

  /** The ring was served: if it is light, it is looked at so often without an event. */
  setLooks(served: Served, looks: number): void {
    served.looks = looks;
    if (served.isHeavy || looks === 0) this.#looked.delete(served.index);
    else this.#looked.add(served.index);
  }

  /** They get new numbers, and all are looked at once more. */
  #number(): void {
    const { all } = this;
    this.active.reset(all.length);
    this.#looked.reset(all.length);
    for (let index = 0; index < all.length; index++) {
      const served = all[index]!;
      served.index = index;
      this.active.add(index);
      this.setLooks(served, served.looks);
    }
    this.findTimed();
  }
}
