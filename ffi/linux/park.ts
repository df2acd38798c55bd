/**
 * Parking a thread in poll(2) on its eventfd and the event channels it watches, and waking it from any thread. The
 * word's protocol is lib/park_word.ts; this file must not know what a woken thread does.
 */

import type { EventChannels, Parker, Waker, WakeToken } from "../../lib/hypervisor.ts";
import { claimWake, enterPark, leavePark, PARK_WORD_BYTES } from "../../lib/park_word.ts";
import { createEventfd, lowerEventfd, raiseEventfd } from "./eventfd.ts";
import { NativeEventChannels } from "../xen/evtchn.ts";
import { libc } from "./libc.ts";
import { PollSet } from "./poll.ts";

/** A wake token that owns its eventfd. Posting it to a Worker posts the word and the descriptor's number. */
export class NativeWakeToken implements WakeToken, Disposable {
  readonly word = new SharedArrayBuffer(PARK_WORD_BYTES);
  readonly fd = createEventfd();
  #closed = false;

  /** Nobody may park with or wake by the token afterwards: the number may name another file. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    libc().close(this.fd);
  }
}

/** Wakes by a word and an eventfd. */
export class NativeWaker implements Waker {
  readonly #word: Int32Array;
  readonly #fd: number;

  constructor(token: WakeToken) {
    this.#word = new Int32Array(token.word);
    this.#fd = token.fd;
  }

  wake(): void {
    if (claimWake(this.#word)) raiseEventfd(this.#fd);
  }
}

/** Parks in poll(2). */
export class NativeParker implements Parker {
  readonly #word: Int32Array;
  readonly #fd: number;
  readonly #polled = new PollSet();

  constructor(token: WakeToken) {
    this.#word = new Int32Array(token.word);
    this.#fd = token.fd;
    this.#polled.add(token.fd);
  }

  watch(events: EventChannels): void {
    this.#polled.add(descriptorOf(events));
  }

  /** To be called before the channels are closed. */
  unwatch(events: EventChannels): void {
    this.#polled.remove(descriptorOf(events));
  }

  park(timeoutMs: number): void {
    if (!enterPark(this.#word)) return;
    this.#polled.wait(timeoutMs);
    leavePark(this.#word);
    if (this.#polled.isReady(0)) lowerEventfd(this.#fd);
  }

  [Symbol.dispose](): void {
    this.#polled[Symbol.dispose]();
  }
}

function descriptorOf(events: EventChannels): number {
  if (events instanceof NativeEventChannels) return events.fd;
  throw new TypeError("Cannot park on event channels: they are not this platform's");
}
