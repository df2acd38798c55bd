/**
 * Parks a thread in poll(2) on its eventfd and the descriptors it watches, and wakes it from any thread.
 * lib/park_word.ts defines the protocol of the shared word.
 */

import type { Parker, Refusal, Wakeable, Waker, WakeToken } from "../../lib/hypervisor.ts";
import { claimWake, enterPark, leavePark, PARK_WORD_BYTES } from "../../lib/park_word.ts";
import { createEventfd, lowerEventfd, raiseEventfd } from "./eventfd.ts";
import { libc } from "./libc.ts";
import { PollSet } from "./poll.ts";

/** A wake token that owns its eventfd. Posting it to a Worker posts the word and the descriptor's number. */
export class NativeWakeToken implements WakeToken, Disposable {
  readonly word = new SharedArrayBuffer(PARK_WORD_BYTES);
  readonly fd = createEventfd();
  #closed = false;

  /** Do not park with the token or wake by it afterwards: the descriptor's number may name another file. */
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
  readonly refusal?: Refusal;
  readonly #word: Int32Array;
  readonly #fd: number;
  /** The token's eventfd, then the descriptors of the sources, in their order. */
  readonly #polled = new PollSet();
  readonly #sources: Wakeable[] = [];

  /** `refusal`: why it carries out no I/O although that was asked for. */
  constructor(token: WakeToken, refusal?: Refusal) {
    if (refusal !== undefined) this.refusal = refusal;
    this.#word = new Int32Array(token.word);
    this.#fd = token.fd;
    this.#polled.add(token.fd);
  }

  watch(source: Wakeable): void {
    checkDescriptor(source);
    this.#polled.add(source.fd);
    this.#sources.push(source);
  }

  unwatch(source: Wakeable): void {
    const index = this.#sources.indexOf(source);
    if (index < 0) return;
    this.#sources.splice(index, 1);
    this.#polled.remove(source.fd);
  }

  park(timeoutMs: number): void {
    if (!enterPark(this.#word)) return;
    this.#polled.wait(timeoutMs);
    leavePark(this.#word);
    if (this.#polled.isReady(0)) lowerEventfd(this.#fd);
    for (let i = 0; i < this.#sources.length; i++) if (this.#polled.isReady(i + 1)) this.#sources[i]!.fired();
  }

  [Symbol.dispose](): void {
    this.#polled[Symbol.dispose]();
  }
}

/** Throws TypeError if the source has no descriptor. */
export function checkDescriptor({ fd }: Wakeable): void {
  if (!Number.isInteger(fd) || fd < 0) throw new TypeError(`Cannot wait for something without a descriptor: fd ${fd}`);
}
