/**
 * Whether storage has stopped answering the requests of a device that is connected. The guest only sees that its disk
 * stands still; so people must be told.
 */

import { PASSES } from "../xenbus/error_text.ts";

/** Requests in flight of which none is answered for so long are reported. A flush of a slow disk takes seconds. */
const STALL_MS = 10_000;

/** The requests of one device, as of the last check. */
export class Stall {
  #answered = -1;
  #sinceMs = 0;
  #text: string | undefined;

  /** What is wrong, for people; undefined while requests are answered, or there are none. */
  get text(): string | undefined {
    return this.#text;
  }

  /**
   * `answered` changes whenever a request is answered, `image` names what does not answer. True: there is something to
   * report, or to take back.
   */
  check(inFlight: number, answered: number, image: string, nowMs: number): boolean {
    const before = this.#text;
    if (inFlight === 0 || answered !== this.#answered) {
      this.#answered = answered;
      this.#sinceMs = nowMs;
      this.#text = undefined;
    } else if (nowMs - this.#sinceMs >= STALL_MS) {
      const requests = inFlight === 1 ? "1 request" : `${inFlight} requests`;
      this.#text ??= `Cannot complete ${requests} of the guest on ${image}: no answer within ${STALL_MS / 1000} s; ` +
        `check the storage behind it; ${PASSES}`;
    }
    return this.#text !== before;
  }
}
