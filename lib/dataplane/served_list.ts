/**
 * The rings of one reactor, and those of them that have something to do: a turn looks only at these, so that idle rings cost
 * the others nothing. A ring comes in when it is woken (see {@linkcode Served.wake}), and goes when a look finds it idle.
 */

import { IndexSet } from "./index_set.ts";
import type { Platform } from "../hypervisor.ts";
import { dueTime, isActive, isReady, type Served, sooner } from "./served.ts";

/** By number, in the order in which they are visited. */
export class ServedList {
  readonly all: Served[] = [];
  /** Those that are looked at. */
  readonly active = new IndexSet();
  /** Those with a channel that may have a due time, unless it rests. */
  readonly timed = new IndexSet();
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

  /** A ring's channel is another one. */
  setTimed(served: Served): void {
    const { limiter } = served.connection;
    served.isTimed = limiter.isTimed;
    if (served.isTimed && (isActive(served) || !limiter.isResting)) this.timed.add(served.index);
    else this.timed.delete(served.index);
  }

  /** Wakes the rings that are due. Milliseconds until the next one is; 0: one is now, -1: none will be. */
  makeDueReady(platform: Pick<Platform, "now">): number {
    const { all, timed } = this;
    let dueMs = Infinity;
    for (let index = timed.from(0); index < all.length; index = timed.from(index + 1)) {
      dueMs = Math.min(dueMs, all[index]!.connection.limiter.channel.dueMs ?? Infinity);
    }
    if (dueMs === Infinity) return -1; // the clock need not be read
    const now = platform.now();
    return dueMs > now ? dueMs - now : this.#makeReady(now);
  }

  /** The same, if a channel's time has passed, or is not a number. */
  #makeReady(now: number): number {
    const { all, timed } = this;
    let nextMs = -1;
    for (let index = timed.from(0); index < all.length; index = timed.from(index + 1)) {
      const served = all[index]!;
      const leftMs = dueTime(served) - now;
      if (leftMs > 0) {
        if (leftMs !== Infinity) nextMs = sooner(nextMs, leftMs);
        continue;
      }
      served.wake();
      served.visitedDueMs = served.connection.limiter.channel.dueMs!;
      served.visitedMs = now;
      nextMs = 0;
    }
    return nextMs;
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
    this.timed.reset(all.length);
    for (let index = 0; index < all.length; index++) {
      const served = all[index]!;
      served.index = index;
      this.active.add(index);
      this.setLooks(served, served.looks);
      this.setTimed(served);
      if (served.isTimed) this.timed.add(index);
    }
  }
}
